"""``python -m agent`` and ``fieldfare-agent``; a worker child and the service skip the commands."""

import sys
from pathlib import Path


def main() -> int:
    """Run the command, or the one job of a child process."""
    if sys.argv[1:2] == ["worker"]:
        from agent.worker.child import main as work  # noqa: PLC0415 - a child needs no click

        return work(sys.argv[2:])
    if sys.argv[1:3] == ["run", "--config"] and len(sys.argv) == 4:  # noqa: PLR2004 -- the unit's line
        from agent.service import serve  # noqa: PLC0415 - nor does the service

        return serve(Path(sys.argv[3]))
    from agent.cli import main as command  # noqa: PLC0415 - and a worker no command

    return command()


if __name__ == "__main__":
    raise SystemExit(main())
