"""The thread in which models are asked over HTTP: its start, its end, and nothing else.

Rule 1: what is wrong with the configuration is said by ``start``, before there is a thread.
Rule 2: whatever happens in the thread ends no other; if it cannot go on, ``on_end`` hears why.
Rule 3: the end lets requests that are being answered be answered, for a moment.
"""

import asyncio
import logging
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from agent.config_serving import ServeConfig
from agent.infer.server import sockets
from agent.infer.server.connection import Connection
from agent.infer.server.desk import Desk, Limits, Models
from agent.infer.server.door import Door
from agent.infer.server.eager import EagerSelector
from agent.infer.server.floor import Floor
from agent.infer.server.tally import Counts, Tally

log = logging.getLogger(__name__)

LOOK_SECONDS: Final = 1.0
DRAIN_SECONDS: Final = 5.0
BODIES_AT_ONCE: Final = 4
"""Largest bodies that may be held at the same time."""


@dataclass(slots=True, kw_only=True)
class _Running:
    loop: asyncio.AbstractEventLoop
    floor: Floor
    stop: asyncio.Event
    servers: list[asyncio.Server] = field(default_factory=list)


class Endpoint:
    """Serves models as ``[serve]`` says, from ``start`` to ``stop``.

    Args:
        config: The section.
        models: What is served.
        on_end: Called from the thread, once, if it ends without having been told to.

    """

    def __init__(
        self, config: ServeConfig, models: Models, on_end: Callable[[str], None] = log.error
    ) -> None:
        self._config = config
        self._models = models
        self._on_end = on_end
        self._tally = Tally()
        self._unix: sockets.UnixDoor | None = None
        self._tcp: socket.socket | None = None
        self._running: _Running | None = None
        self._thread: threading.Thread | None = None
        self._ready = threading.Event()

    @property
    def tcp_port(self) -> int | None:
        """The port that is listened on, of which 0 in the configuration leaves the choice."""
        return self._tcp.getsockname()[1] if self._tcp else None

    @property
    def in_the_open(self) -> bool:
        """Whether other machines can connect, who then send the token in clear."""
        return self._config.tcp is not None and not sockets.is_loopback(self._config.tcp)

    def start(self) -> None:
        """Listen, and answer from now on.

        Raises:
            ConfigError: A socket or the token file is not as it has to be.

        """
        config = self._config
        token = None
        if config.tcp is not None and config.token_file is not None:
            token = sockets.read_token(config.token_file)
        self._unix = sockets.open_unix(config.socket, int(config.mode, 8))
        try:
            if config.tcp is not None:
                self._tcp = sockets.open_tcp(config.tcp)
        except BaseException:
            self._unix.close()
            raise
        self._thread = threading.Thread(target=self._run, args=(token,), name="serve", daemon=True)
        self._thread.start()
        self._ready.wait(DRAIN_SECONDS)

    def counts(self) -> Counts:
        """Return what was asked since it was made."""
        return self._tally.counts()

    def stop(self, timeout_seconds: float = 2 * DRAIN_SECONDS) -> bool:
        """Stop listening, let what is being answered end; False if the thread goes on."""
        running, thread = self._running, self._thread
        if running is not None:
            with suppress(RuntimeError):  # it has ended already
                running.loop.call_soon_threadsafe(running.stop.set)
        if thread is not None:
            thread.join(timeout_seconds)
        if self._unix is not None:
            self._unix.close()
        if self._tcp is not None:
            self._tcp.close()
        return thread is None or not thread.is_alive()

    def _run(self, token: str | None) -> None:
        try:
            with asyncio.Runner(loop_factory=_eager_loop) as runner:
                runner.run(self._serve(token))
        except Exception as why:  # the thread's top: a bug here ends nothing else
            log.exception("serve=ended")
            self._on_end(f"models are served no longer: {type(why).__name__}: {why}")
        finally:
            self._ready.set()

    async def _serve(self, token: str | None) -> None:
        floor = self._floor(token)
        running = _Running(loop=asyncio.get_running_loop(), floor=floor, stop=asyncio.Event())
        self._running = running
        await self._listen(running)
        self._ready.set()
        looking = running.loop.create_task(_look(floor))
        waiting = running.loop.create_task(running.stop.wait())
        try:
            await asyncio.wait((looking, waiting), return_when=asyncio.FIRST_COMPLETED)
            if looking.done():
                looking.result()
        finally:
            looking.cancel()
            await _drain(running)
            floor.desk.close()

    def _floor(self, token: str | None) -> Floor:
        config = self._config
        limits = Limits(
            body_bytes=config.body_bytes,
            json_bytes=config.json_bytes,
            waiting=config.waiting,
            deadline_seconds=config.deadline_seconds,
        )
        names = {name.lower() for name in (*config.hosts, socket.gethostname())}
        door = Door(
            token=token,
            hosts=frozenset(names | {f"{name}.local" for name in names}),
            per_second=config.requests_per_second,
            now=time.monotonic,
        )
        return Floor(
            door=door,
            desk=Desk(self._models, limits, self._tally),
            tally=self._tally,
            body_bytes=config.body_bytes,
            all_bytes=BODIES_AT_ONCE * config.body_bytes,
            most_connections=config.connections,
            idle_seconds=config.idle_seconds,
            receive_seconds=config.receive_seconds,
        )

    async def _listen(self, running: _Running) -> None:
        loop, floor = running.loop, running.floor
        if self._unix is not None:
            at_path = partial(Connection, floor, tcp=False)
            listening = self._unix.listening
            running.servers.append(await loop.create_unix_server(at_path, sock=listening))
        if self._tcp is not None:
            at_port = partial(Connection, floor, tcp=True)
            running.servers.append(await loop.create_server(at_port, sock=self._tcp))


def _eager_loop() -> asyncio.AbstractEventLoop:
    return asyncio.SelectorEventLoop(EagerSelector())


async def _look(floor: Floor) -> None:
    while True:
        await asyncio.sleep(LOOK_SECONDS)
        now = time.monotonic()
        for connection in tuple(floor.open):
            connection.look(now)


async def _drain(running: _Running) -> None:
    floor = running.floor
    floor.stopping = True
    for server in running.servers:
        server.close()
    floor.empty.clear()
    for connection in tuple(floor.open):
        connection.end_when_answered()
    if floor.open:
        with suppress(TimeoutError):
            await asyncio.wait_for(floor.empty.wait(), DRAIN_SECONDS)
    for connection in tuple(floor.open):
        connection.abort()
    await asyncio.sleep(0)
