"""``fieldfare``, and ``python -m fleet``: the command line, and the door it may open."""

from pathlib import Path

from fleet.cli.founding import Door
from fleet.cli.program import main as run
from fleet.service.desk import Ask


def open_door(path: Path, ask: Ask) -> Door:
    """Return the API on a Unix socket; its libraries load when a manager starts."""
    from fleet.api.app import make_app  # noqa: PLC0415 - for serve only
    from fleet.api.socket import SocketServer  # noqa: PLC0415 - for serve only

    return SocketServer(path, make_app(ask))


def main() -> None:
    """Run ``fieldfare``."""
    run(open_door)


if __name__ == "__main__":
    main()
