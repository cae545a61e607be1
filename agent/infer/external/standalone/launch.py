"""Becomes a worker: takes the limits on itself, then replaces itself by the worker's command.

The agent starts ``python -I -S launch.py LIMITS COMMAND…``; whatever the command is, the
limits were there before its first instruction.

Rule 1: the worker dies with the agent, also when the agent is killed (``prctl(2)``,
        ``PR_SET_PDEATHSIG``).
Rule 2: where memory runs out, the kernel takes the worker and not the agent.
Rule 3: a worker whose limits cannot be set does not start.
"""

import ctypes
import json
import os
import resource
import signal
import sys
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_TAKEN_FIRST = 500
"""Of ``oom_score_adj``, which reaches from -1000 to 1000."""


def main(arguments: list[str]) -> int:
    """Limit this process and become the command; return only if that fails."""
    limits, command = json.loads(arguments[0]), arguments[1:]
    try:
        _limit(limits)
        os.execvp(command[0], command)  # noqa: S606 -- the operator's command, and no shell
    except (OSError, ValueError) as why:
        sys.stderr.write(f"{command[0]}: {why}\n")
    return 127


def _limit(limits: dict[str, int | None]) -> None:
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != limits["parent"]:
        raise SystemExit(1)  # the agent died before it could be watched
    if limits["memory_bytes"] is not None:
        resource.setrlimit(resource.RLIMIT_AS, (limits["memory_bytes"],) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.nice(limits["nice"] or 0)
    try:
        Path("/proc/self/oom_score_adj").write_text(str(_TAKEN_FIRST))
    except OSError:
        sys.stderr.write("the kernel will not be told to take this worker first\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
