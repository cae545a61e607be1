"""The embedded broker for demo and development: no accounts, no isolation, loopback only.

Rule 1: it is bound to 127.0.0.1, whatever its library's default says.
Rule 2: it runs in a child process that dies with its parent and keeps nothing on disk.
Rule 3: it says at every start that it enforces no isolation between devices.
"""

import logging
from pathlib import Path

from fleet.errors import UnreachableError

MAX_PAYLOAD_BYTES = 1024 * 1024
START_SECONDS = 15.0

_CONFIGURATION = """\
id = 0

[router]
id = 0
max_connections = 1000
max_outgoing_packet_count = 200
max_segment_size = 16777216
max_segment_count = 4

[v5.1]
name = "fieldfare"
listen = "127.0.0.1:{port}"
next_connection_delay_ms = 1

[v5.1.connections]
connection_timeout_ms = 60000
max_payload_size = {max_payload}
max_inflight_count = 100
dynamic_filters = true
"""

log = logging.getLogger("fleet.ingest")


class EmbeddedBroker:
    """An ``iotcore`` broker in a child process on 127.0.0.1; dies with its parent."""

    def __init__(self, folder: Path, port: int) -> None:
        try:
            from iotcore import Broker  # noqa: PLC0415 - only the demo extra installs it
        except ImportError as why:
            raise UnreachableError(
                "the embedded broker is not installed: pip install 'fieldfare[demo]', "
                "or install mosquitto"
            ) from why
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "embedded.toml"
        path.write_text(_CONFIGURATION.format(port=port, max_payload=MAX_PAYLOAD_BYTES))
        self._port = port
        self._broker = Broker(config_path=str(path))

    @property
    def url(self) -> str:
        """``mqtt://127.0.0.1:port``."""
        return f"mqtt://127.0.0.1:{self._port}"

    def start(self) -> None:
        """Start it and wait until it listens.

        Raises:
            UnreachableError: Its port is taken or it did not come up.

        """
        log.warning(
            "broker=embedded address=127.0.0.1:%d isolation=none "
            "note='for development: any client may read and write everything'",
            self._port,
        )
        try:
            self._broker.start(timeout=START_SECONDS)
        except (OSError, RuntimeError) as why:
            raise UnreachableError(f"the embedded broker did not start: {why}") from why

    def stop(self) -> None:
        """End it; safe to call twice."""
        self._broker.stop()
