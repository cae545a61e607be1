"""The manager's loop on a real broker: what it wishes is found there, what it took is recorded."""

import subprocess
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from threading import Thread

import pytest

from agent.contract.codec import encode
from agent.contract.envelope import open_document, stamp_report
from agent.contract.messages import Assigned
from agent.contract.telemetry import Telemetry
from agent.contract.topics import ASSIGNMENT, TELEMETRY
from fleet.config import FleetConfig
from fleet.ingest.mail import Connection, Message
from fleet.ingest.mosquitto import PROVISIONER_USER
from fleet.ingest.provision import Provisioner
from fleet.service import inbox, membership
from fleet.service.desk import open_desk
from fleet.service.founding import Ports, found_dev
from fleet.service.loop import RunningManager
from tests.brokers import PROGRAM, Listener, accepts, eventually, free_port
from tests.manager_home import Stranger, join
from tests.small_fleet import a_window

pytestmark = pytest.mark.broker
WISH = Assigned(target="models/motion/v1.json", digest="1" * 64, counter=1)


class Home:
    """A manager's home with one device, on a mosquitto of its own."""

    def __init__(self, folder: Path) -> None:
        self.ports = Ports(devices=free_port(), enrolment=free_port())
        self.config: FleetConfig = found_dev(folder, "demo", kind="mosquitto", ports=self.ports)
        desk = open_desk(self.config, "", lambda _run, _word: None)
        self.topics = desk.topics
        self.director = desk.keys.director.signing.verify_key
        self.device: Stranger = join(desk)
        desk.registry.devices.want(self.device.id, "motion", WISH, at_ms=1)
        desk.registry.close()
        self.start_broker()
        password = self.config.secret("provisioner-password")
        connection = self.connection(PROVISIONER_USER, password)
        provisioner = Provisioner(connection, self.topics)
        self.password = provisioner.grant(self.device.id)
        provisioner.close()

    def start_broker(self) -> None:
        configuration = self.config.broker_folder / "mosquitto.conf"
        with (self.config.broker_folder / "broker.log").open("ab") as log:
            self.broker = subprocess.Popen(
                [str(PROGRAM), "-c", str(configuration)], stdout=log, stderr=log
            )
        eventually(lambda: accepts(self.ports.devices))

    def kill_broker(self) -> None:
        self.broker.kill()
        self.broker.wait()

    def connection(self, name: str, password: str | None) -> Connection:
        return Connection(
            url=self.config.broker.url,
            ca=self.config.broker_ca(),
            username=name,
            password=password,
            client_id=name,
            longest_wait_seconds=0.5,
        )

    def listener(self) -> Listener:
        """The device's own connection."""
        topic = self.topics.write(ASSIGNMENT.at(self.device.id))
        return Listener(self.connection(self.device.id, self.password), topic)


class Manager:
    """``RunningManager`` on a thread of its own; ``why`` is what ended it."""

    def __init__(self, config: FleetConfig) -> None:
        self._opened: Future[RunningManager] = Future()
        self._thread = Thread(target=self._run, args=(config,))
        self._thread.start()
        self._manager = self._opened.result(timeout=30)
        self.why: BaseException | None = None

    def _run(self, config: FleetConfig) -> None:
        manager = RunningManager(config)
        self._opened.set_result(manager)
        try:
            manager.run()
        except OSError as why:
            self.why = why

    @property
    def ask(self):
        return self._manager.ask

    def join(self) -> None:
        self._thread.join(timeout=30)
        assert not self._thread.is_alive()

    def stop(self) -> None:
        self._manager.stop()
        self.join()


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    made = Home(tmp_path / "home")
    yield made
    made.kill_broker()


def believed(home: Home, payload: bytes) -> bool:
    topic = ASSIGNMENT.at(home.device.id).logical
    return b'"sequence":1' in open_document([home.director], topic, payload)


def test_an_assignment_waits_at_the_broker_for_a_device_that_connects_later(home: Home):
    manager = Manager(home.config)
    try:
        early = home.listener()
        early.until(lambda: bool(early.heard))
        early.close()
        late = home.listener()
        late.until(lambda: bool(late.heard))
        assert late.heard[0].retained
        assert believed(home, late.heard[0].payload)
        late.close()
    finally:
        manager.stop()


def test_a_broker_that_forgot_everything_is_told_every_assignment_again(home: Home):
    manager = Manager(home.config)
    try:
        before = home.listener()
        before.until(lambda: bool(before.heard))
        before.close()
        home.kill_broker()
        for kept in (home.config.broker_folder / "data").iterdir():
            kept.unlink()
        home.start_broker()
        after = home.listener()
        after.until(lambda: bool(after.heard))
        assert after.heard[0].payload == before.heard[0].payload
        after.close()
    finally:
        manager.stop()


def test_a_report_that_a_dying_manager_did_not_record_comes_to_the_next_one(
    home: Home, monkeypatch: pytest.MonkeyPatch
):
    device = home.device
    address = TELEMETRY.at(device.id, "windows")
    payload = encode(Telemetry(ts=1, up=1, windows=(a_window(1),)))
    stamp = stamp_report(device.key, address.logical, device.boot, 1, payload)
    report = Message(
        topic=home.topics.write(address), payload=payload, properties=stamp.properties()
    )

    def counted(manager: Manager) -> int:
        return manager.ask(lambda desk: membership.device(desk, device.id).reports_accepted)

    with monkeypatch.context() as patched:

        def die(*_: object) -> None:
            raise OSError("the lights went out")

        patched.setattr(inbox, "take", die)
        first = Manager(home.config)
        speaker = home.listener()
        speaker.until(lambda: bool(speaker.heard))  # so the manager is there
        assert speaker.link.publish(report)
        speaker.until(lambda: speaker.link.unsent_bytes == 0)
        first.join()
        assert str(first.why) == "the lights went out"
    second = Manager(home.config)
    try:
        eventually(lambda: counted(second) == 1)
    finally:
        second.stop()
        speaker.close()
