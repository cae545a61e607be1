"""Dozens of agents in one process: everything of ``fieldfare-agent run`` but the process.

Each has its own state directory, ``Loop``, ``Rooms``, link thread, trust, clock and outbox, as
opened by the agent's own code. What a child process would do (verify metadata, probe the
runtimes) is done by the same function on a thread of this process, because a hundred Pythons
do not fit a test.
"""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest

from agent.config import Config
from agent.config_file import load_config
from agent.daemon import children, enrolling
from agent.daemon.enrolling import enrol
from agent.daemon.host import ServiceNotifier
from agent.daemon.loop import Loop
from agent.daemon.opening import open_state
from agent.daemon.rooms import Rooms
from agent.disk import Disk
from agent.identity.enrol import Credentials, load_credentials
from agent.identity.home import load_home
from agent.update import trust
from agent.worker import child
from agent.worker.jobs import Kind, Limits
from agent.worker.start import Finished, answer_type
from tests.agents import write_config

LINK = """
endpoint_seconds = 15
endpoint_retry_seconds = 3
fresh_seconds = 60
"""


class Job:
    """What a started child is to who started it."""

    def stop(self) -> None:
        return


@contextmanager
def jobs_on_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Do what children would do on two threads, through the same encoding."""
    pool = ThreadPoolExecutor(2)

    def start(
        kind: Kind,
        job: msgspec.Struct,
        *,
        ticket: str,
        limits: Limits,
        deliver: Callable[[Finished], object],
    ) -> Job:
        def work() -> None:
            answer = child._answer(kind, msgspec.json.encode(job))
            read = msgspec.json.decode(msgspec.json.encode(answer), type=answer_type(kind))
            deliver(Finished(ticket=ticket, kind=kind, answer=read))

        pool.submit(work)
        return Job()

    with monkeypatch.context() as patch:
        patch.setattr(children, "start", start)
        patch.setattr(enrolling, "start", start)
        try:
            yield
        finally:
            pool.shutdown(wait=True)


class ThreadedAgent:
    """One device: its folder, and its loop while it runs."""

    def __init__(self, folder: Path, extra: str = "") -> None:
        self.folder = folder
        folder.mkdir(parents=True)
        file = write_config(folder, extra)
        text = file.read_text().replace("[link]\n", f"[link]\n{LINK}")
        # many in one process, beside their manager: their windows are not what is tested
        text = text.replace("window_seconds = 0.5", "window_seconds = 10")
        file.write_text(text.replace("[agent]\n", "[agent]\nstartup_delay_seconds = 0.2\n"))
        self.config: Config = load_config(file)
        self._loop: Loop | None = None
        self._thread: threading.Thread | None = None

    @property
    def disk(self) -> Disk:
        return Disk(self.config.agent.state_dir)

    @property
    def credentials(self) -> Credentials:
        found = load_credentials(self.disk)
        assert found is not None
        return found

    @property
    def id(self) -> str:
        return self.credentials.device

    @property
    def believes(self) -> tuple[str, ...]:
        """Fingerprints of the authorities at the endpoint that led to the fleet last."""
        return load_home(self.disk, self.credentials).fingerprints

    @property
    def url(self) -> str:
        return load_home(self.disk, self.credentials).url

    @property
    def trusts(self) -> trust.TrustState:
        found = trust.load(self.disk)
        assert found is not None
        return found

    def enrol(self, file: Path) -> None:
        self.config.agent.state_dir.mkdir(parents=True, exist_ok=True)
        enrol(file, self.config.agent.state_dir)

    def start(self) -> None:
        loop = Loop(self.config, Rooms(self.config, open_state(self.config)), ServiceNotifier({}))
        self._loop = loop
        self._thread = threading.Thread(target=loop.run, name=f"agent-{self.folder.name}")
        self._thread.start()

    def stop(self) -> None:
        self.ask_to_stop()
        if self._thread is not None:
            self._thread.join(60)
            assert not self._thread.is_alive()
        self._loop = self._thread = None

    def ask_to_stop(self) -> None:
        if self._loop is not None:
            self._loop.stop()


def enrol_all(agents: list[ThreadedAgent], file: Path) -> None:
    """Enrol many, a few at a time: they share the broker's seats for strangers."""
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda agent: agent.enrol(file), agents))


@contextmanager
def running_all(agents: list[ThreadedAgent]) -> Iterator[None]:
    """Start them, and stop whichever runs at the end."""
    for agent in agents:
        agent.start()
    try:
        yield
    finally:
        for agent in agents:
            agent.ask_to_stop()
        for agent in agents:
            agent.stop()
