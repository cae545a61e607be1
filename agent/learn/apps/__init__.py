"""Apps of the fleet's operator on this device: checked, set apart, run, and never trusted.

``environments`` says which Python has what an app declares; ``running`` is the parent's
side of one task; ``inside``, ``apart``, ``landlock`` and ``calls`` are the child's.
"""
