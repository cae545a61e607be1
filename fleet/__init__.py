"""The fleet manager: a release is admitted, signed, rolled out in waves, proves itself, and learns.

``registry`` remembers what exists and what happened; ``release``, ``signing``,
``rollout``, ``ingest`` and ``rounds`` are the chapters of a release's life;
``service`` combines them, one transaction each; ``api``, ``console`` and ``cli``
are thin surfaces over it.
"""
