"""The embedded broker for demo and development: no accounts, no isolation, loopback only."""

from pathlib import Path


class EmbeddedBroker:
    """An ``iotcore`` broker in a child process on 127.0.0.1; dies with its parent."""

    def __init__(self, folder: Path, port: int) -> None:
        raise NotImplementedError

    @property
    def url(self) -> str:
        """``mqtt://127.0.0.1:port``."""
        raise NotImplementedError

    def start(self) -> None:
        """Start it and wait until it listens.

        Raises:
            UnreachableError: It is not installed or did not come up.

        """
        raise NotImplementedError

    def stop(self) -> None:
        """End it; safe to call twice."""
        raise NotImplementedError
