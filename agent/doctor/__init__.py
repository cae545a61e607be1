"""``fieldfare-agent doctor``: what is wrong with this device, and what to do.

``gather`` and ``reach`` look, and change nothing; ``examine`` and ``login`` judge what
they saw, as pure functions over values.
"""
