"""Waiting for a manager that works in another thread, with a deadline."""

import time

from fleet.service import runs


def wait_for_run(manager, found, run: str = "run-1", seconds: float = 120.0):
    """Return what the manager comes to say of a run."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        view = manager.ask(lambda desk: runs.show(desk, run))
        if found(view):
            return view
        time.sleep(0.1)
    raise AssertionError(view)
