"""Whether models can be asked over HTTP: the package, the token, the socket.

Rule 1: nothing is listened on and nothing is replaced; of a running server only its health
        is asked.
"""

import socket
from pathlib import Path

from agent.config_serving import ServeConfig
from agent.daemon.offering import require_package
from agent.errors import ConfigError

PATIENCE_SECONDS = 2.0
_ASK = b"GET /v2/health/live HTTP/1.1\r\nHost: doctor\r\nConnection: close\r\n\r\n"


def look_at_serve(config: ServeConfig | None, *, running: bool) -> str | None:
    """Return what there is to say of ``[serve]``; None where it is not set.

    Args:
        config: The section.
        running: Whether an agent runs now, which should then answer.

    Raises:
        ConfigError: Something keeps models from being asked.

    """
    if config is None:
        return None
    require_package()
    # after the package is known to be there
    from agent.infer.server import sockets  # noqa: PLC0415

    where = str(config.socket)
    if config.tcp is not None and config.token_file is not None:
        sockets.split_address(config.tcp)
        sockets.read_token(config.token_file)
        where += f" and {config.tcp}"
        if not sockets.is_loopback(config.tcp):
            where += " (no TLS: the token travels in clear)"
    if running:
        _require_answer(config.socket)
        return f"models are asked on {where}"
    sockets.require_free(config.socket)
    return f"models will be asked on {where} when the agent runs"


def _require_answer(path: Path) -> None:
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as there:
            there.settimeout(PATIENCE_SECONDS)
            there.connect(str(path))
            there.sendall(_ASK)
            said = there.recv(64)
    except OSError as why:
        raise ConfigError(
            f"the agent runs, and nobody answers on {path} ({why.strerror or why}): "
            "was it restarted since [serve] was set? its log says what hinders it"
        ) from why
    if not said.startswith(b"HTTP/1.1 200"):
        raise ConfigError(f"something else than the agent answers on {path}")
