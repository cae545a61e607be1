"""``python -m agent`` and ``fieldfare-agent``; a worker child skips the command line."""

import sys


def main() -> int:
    """Run the command, or the one job of a child process."""
    if sys.argv[1:2] == ["worker"]:
        from agent.worker.child import main as work  # noqa: PLC0415 - a child needs no click

        return work(sys.argv[2:])
    from agent.cli import main as command  # noqa: PLC0415 - and a worker no command

    return command()


if __name__ == "__main__":
    raise SystemExit(main())
