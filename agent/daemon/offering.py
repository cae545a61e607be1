"""Models of this device over HTTP, where ``[serve]`` says so: the server's place in the daemon.

Rule 1: without ``[serve]`` nothing of the server is imported.
Rule 2: what keeps the server from its sockets is an alarm and is tried again; inference and
        the fleet do not wait for it. Only a package that is missing keeps the agent from
        starting, because nobody but its operator brings it.
Rule 3: a server that ended by itself is started again, and an alarm says that it had ended.
"""

import time
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING, Final

from agent.config_serving import ServeConfig
from agent.contract.telemetry import Served
from agent.daemon.agenda import Agenda
from agent.daemon.host import AGENT_VERSION, event, log
from agent.errors import AgentError, ConfigError
from agent.infer.requests import Offered, Request, Response

if TYPE_CHECKING:
    from agent.infer.server.endpoint import Endpoint

AGAIN_SECONDS: Final = 60.0

Action = Callable[[str, bytes], tuple[int, bytes]]


class Offering:
    """The server, from ``start`` to ``stop``.

    Args:
        config: ``[serve]``, or None.
        agenda: For trying again.
        alarm: Takes a code and a sentence.
        request: Asks one slot, from any thread.
        offered: What there is to be asked.
        actions: What else may be posted for a model, by the last part of its path.

    Raises:
        ConfigError: ``[serve]`` is set, and the package for it is not installed.

    """

    def __init__(
        self,
        config: ServeConfig | None,
        agenda: Agenda,
        *,
        alarm: Callable[[str, str], None],
        request: Callable[[str, Request], Response],
        offered: Callable[[], tuple[Offered, ...]],
        actions: Mapping[str, Action],
    ) -> None:
        if config is not None:
            require_package()
        self._config = config
        self._agenda = agenda
        self._alarm = alarm
        self._request = request
        self._offered = offered
        self._actions = actions
        self._endpoint: Endpoint | None = None
        self._ended: str | None = None

    def start(self) -> None:
        """Listen, where there is something to listen on; what hinders it is tried again."""
        config = self._config
        if config is None:
            return
        self._ended = None
        endpoint = self._open(config)
        try:
            endpoint.start()
        except AgentError as why:
            self._alarm(why.code, str(why))
            self._agenda.at("serve", time.monotonic() + AGAIN_SECONDS, self.start)
            return
        self._endpoint = endpoint
        log.info(event("serving-http", socket=config.socket, tcp=config.tcp))
        if endpoint.in_the_open:
            log.warning(event("serving-in-the-open", tcp=config.tcp, why="no TLS: see docs"))

    def counts(self) -> Served | None:
        """Return what was asked so far, and look after the server."""
        endpoint = self._endpoint
        if endpoint is None:
            return None
        counts = endpoint.counts()
        if self._ended is not None:
            self._alarm("serve", f"{self._ended}; it is started again")
            self.stop()
            self.start()
        return Served(answered=counts.answered, refused=counts.refused)

    def stop(self) -> None:
        """Listen no longer, and let what is being answered end."""
        self._agenda.cancel("serve")
        endpoint, self._endpoint = self._endpoint, None
        if endpoint is not None and not endpoint.stop():
            log.warning(event("serve-does-not-stop"))

    def _open(self, config: ServeConfig) -> "Endpoint":
        # asyncio and the parser are 3 MiB that only [serve] needs
        from agent.infer.server.desk import Models  # noqa: PLC0415
        from agent.infer.server.endpoint import Endpoint  # noqa: PLC0415

        models = Models(
            request=self._request,
            offered=self._offered,
            actions=self._actions,
            version=AGENT_VERSION,
        )
        return Endpoint(config, models, self._note_end)

    def _note_end(self, why: str) -> None:
        self._ended = why


def require_package() -> None:
    """Return if the package that ``[serve]`` needs is installed.

    Raises:
        ConfigError: It is not.

    """
    if find_spec("httptools") is None:
        raise ConfigError(
            "[serve] is configured, and the package httptools is not installed: "
            "install fieldfare[serve], or remove the section"
        )
