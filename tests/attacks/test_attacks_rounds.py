"""Hostile updates through the real broker, each signed by a device that may train.

Real: mosquitto with its accounts, and the manager with its registry, its Flower child and its
command line. Beside two honest devices one says something that it must not; the round goes
on, what was wrong is told in ``run show``, and the weights are those of the honest alone.
"""

import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import pytest

from agent.contract.tensors import decode_message
from agent.contract.topics import Topics
from fleet.cli.client import ManagerClient
from fleet.config import FleetConfig
from fleet.ingest.mail import Connection
from fleet.ingest.provision import Provisioner
from fleet.ingest.rights import PROVISIONER_USER
from fleet.registry.devices import DeviceState
from fleet.registry.sqlite import open_registry
from fleet.rounds.events import FINAL
from fleet.service.founding import Ports, found_dev
from fleet.service.loop import RunningManager
from fleet.service.views import ReleaseView, RunView
from fleet.service.wishes import RunWish
from tests.brokers import free_port
from tests.ceremonies import running
from tests.home_fleet import HomeBroker
from tests.hostile_devices import Answering, HandMade, Offered, Said, honestly
from tests.manager_home import MODEL, ROOT

pytestmark = [pytest.mark.broker, pytest.mark.slow, pytest.mark.timeout(300)]
TOPICS = Topics(fleet="demo")
HONEST, LIARS = 2, 24
OVER = {"finished", "failed", "stopped"}


class Fleet:
    """A manager, its broker, two honest devices, and liars that come one at a time."""

    def __init__(
        self, config: FleetConfig, manager: RunningManager, passwords: dict[str, str]
    ) -> None:
        self.config, self.manager, self._passwords = config, manager, passwords
        self.devices: list[HandMade] = []
        self.liars = iter(range(HONEST, HONEST + LIARS))
        self.digest = ""

    def joins(self, seed: int, answering: Answering = honestly) -> HandMade:
        device = HandMade(seed, TOPICS, answering)
        device.connect(self.config.broker.url, self.config.broker_ca(), self._passwords[device.id])
        device.announce(self.digest)
        self.devices.append(device)
        return device

    def leaves(self, device: HandMade) -> None:
        device.announce(self.digest, "offline")
        device.close()
        self.devices.remove(device)

    def ask(self, path: str) -> RunView:
        with ManagerClient(self.config.socket) as client:
            return client.get(path, RunView)

    def until(self, holds: Callable[[], bool]) -> None:
        """Let the devices do their work until something holds."""
        authority = self.manager.ask(lambda desk: desk.repository.authority())
        deadline = time.monotonic() + 60
        while not holds():
            assert time.monotonic() < deadline, "it did not come true in a minute"
            for device in self.devices:
                device.turn(authority)

    def starts(self, rounds: int = 1, **wish: object) -> str:
        self.until(lambda: self._online() == {d.id for d in self.devices})
        wish = RunWish(slot="motion", rounds=rounds, epochs=5, seed=3, **wish)  # type: ignore[arg-type]
        with ManagerClient(self.config.socket) as client:
            return client.post("/runs", wish, RunView).id

    def ended(self, run: str) -> RunView:
        self.until(lambda: self.ask(f"/runs/{run}").status in OVER)
        return self.ask(f"/runs/{run}")

    def weights(self, run: str) -> bytes:
        """Return the aggregated head without what tells one run from another."""
        final = self.manager.ask(lambda desk: desk.registry.runs.blob(run, FINAL))
        arrays = decode_message(final).content["arrays"].items
        return b"".join(arrays[name].tobytes() for name in sorted(arrays))

    def shown(self, run: str) -> str:
        """What an operator reads of a run."""
        words = [sys.executable, "-m", "fleet", "run", "show", run, "--home"]
        ended = subprocess.run(
            [*words, str(self.config.home)], capture_output=True, text=True, check=True, cwd=ROOT
        )
        return " ".join(ended.stdout.split())

    def _online(self) -> set[str]:
        listed = self.manager.ask(lambda desk: desk.registry.devices.listing())
        return {d.id for d in listed if d.presence == "online" and d.reported and d.inventory}


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    ports = Ports(devices=free_port(), enrolment=free_port())
    home = tmp_path_factory.mktemp("hostile") / "home"
    config = found_dev(home, "demo", kind="mosquitto", ports=ports)
    keys = [HandMade(seed, TOPICS) for seed in range(HONEST + LIARS)]
    _enrol(config, keys)
    broker = HomeBroker(config)
    try:
        passwords = _grant(config, [device.id for device in keys])
        with running(home, "") as manager:
            made = Fleet(config, manager, passwords)
            words = ("model", "publish", str(MODEL), "--version", "v1", "--home", str(home))
            subprocess.run([sys.executable, "-m", "fleet", *words], check=True, cwd=ROOT,
                           capture_output=True)  # fmt: skip
            with ManagerClient(config.socket) as client:
                (release,) = client.get("/releases", list[ReleaseView])
            made.digest = release.digest
            for seed in range(HONEST):
                made.joins(seed)
            yield made
            for device in list(made.devices):
                made.leaves(device)
    finally:
        broker.stop()


def _enrol(config: FleetConfig, devices: Iterable[HandMade]) -> None:
    registry = open_registry(config.registry, create=False)
    for device in devices:
        registry.devices.add(
            device.id,
            key=bytes(device.key.verify_key).hex(),
            group="demo",
            hardware="generic-linux",
            state=DeviceState.ENROLLED,
            at_ms=1,
        )
    registry.close()


def _grant(config: FleetConfig, devices: list[str]) -> dict[str, str]:
    connection = Connection(
        url=config.broker.url,
        ca=config.broker_ca(),
        username=PROVISIONER_USER,
        password=(config.broker_folder / "provisioner-password").read_text().strip(),
        client_id=PROVISIONER_USER,
    )
    provisioner = Provisioner(connection, TOPICS)
    try:
        return {device: provisioner.grant(device) for device in devices}
    finally:
        provisioner.close()


@pytest.fixture(scope="module")
def honest_weights(fleet: Fleet) -> bytes:
    """What the two honest devices make of one round without anybody else."""
    run = fleet.starts()
    view = fleet.ended(run)
    assert (view.status, view.replies, view.refused) == ("finished", 2, 0), view
    return fleet.weights(run)


def _huge(offered: Offered) -> Said:
    """The head of an array says 2^40 elements in as many bytes as before."""
    shape = b"(7, 64), }"
    assert offered.honest.count(shape) == 1
    huge = b"(1099511627776,), }"
    return offered.says(offered.honest.replace(shape + b" " * (len(huge) - len(shape)), huge))


def _not_a_number(weight: np.ndarray) -> np.ndarray:
    weight[0, 0] = np.nan
    return weight


def _infinite(weight: np.ndarray) -> np.ndarray:
    weight[-1, -1] = -np.inf
    return weight


LIES: tuple[tuple[str, Callable[[Offered], Said], str], ...] = (
    ("another shape", lambda o: o.with_arrays(lambda w: w[:-1]), "asked was float32"),
    ("a broadcastable shape", lambda o: o.with_arrays(lambda w: w[:1]), "asked was float32"),
    ("a scalar", lambda o: o.with_arrays(lambda w: w[0, 0]), "asked was float32"),
    ("a dtype of its own", lambda o: o.with_arrays(lambda w: w.astype(np.float64)), "float64"),
    ("not a number", lambda o: o.with_arrays(_not_a_number), "not finite"),
    ("infinity", lambda o: o.with_arrays(_infinite), "not finite"),
    ("1e18 examples", lambda o: o.with_metrics(num_examples=10**18), "num-examples is 10000000"),
    ("0 examples", lambda o: o.with_metrics(num_examples=0), "num-examples is 0"),
    ("-1 examples", lambda o: o.with_metrics(num_examples=-1), "num-examples is -1"),
    ("half an example", lambda o: o.with_metrics(num_examples=0.5), "num-examples is 0.5"),
    ("no examples", lambda o: o.with_metrics(num_examples=None), "num-examples is None"),
    ("2^40 elements", _huge, ""),
    ("garbage", lambda o: o.says(b"\xff" * 4096), ""),
    ("nothing", lambda o: o.says(b""), ""),
    ("half of it", lambda o: o.says(o.honest[: len(o.honest) // 2]), ""),
    ("another run's update", lambda o: o.with_metadata(run_id=7), "belongs to run 7"),
    (
        "another message's reply",
        lambda o: o.with_metadata(reply_to_message_id="1.5"),
        "answers message '1.5'",
    ),
)


@pytest.mark.parametrize(("lie", "why"), [pytest.param(a, w, id=i) for i, a, w in LIES])
def test_one_liar_costs_its_own_reply_and_the_operator_reads_why(
    lie, why, fleet: Fleet, honest_weights
):
    liar = fleet.joins(next(fleet.liars), lambda offered: [lie(offered)])
    try:
        run = fleet.starts()
        view = fleet.ended(run)
        assert (view.status, view.rounds_completed) == ("finished", 1), view
        assert (view.replies, view.refused) == (2, 1), view
        assert fleet.weights(run) == honest_weights
        shown = fleet.shown(run)
        assert why in shown, shown
        assert "1 refused" in shown
    finally:
        fleet.leaves(liar)


def test_a_reply_that_is_not_the_one_its_answer_names_is_dropped_at_the_door(
    fleet: Fleet, honest_weights
):
    """What a device signs names its reply; where the two differ, it has said nothing."""
    liar = fleet.joins(next(fleet.liars), lambda o: [o.says(o.honest, digest="0" * 64)])
    try:
        run = fleet.starts(deadline_seconds=3)
        view = fleet.ended(run)
        assert (view.status, view.replies, view.refused) == ("finished", 2, 0), view
        assert fleet.weights(run) == honest_weights
    finally:
        fleet.leaves(liar)


def test_a_reply_of_the_round_before_is_no_reply_of_this_one(fleet: Fleet):
    def replaying(offered: Offered) -> Iterable[Said]:
        yield offered.says(liar.offered[0].honest)

    liar = fleet.joins(next(fleet.liars), replaying)
    try:
        run = fleet.starts(rounds=2)
        view = fleet.ended(run)
        assert (view.status, view.replies, view.refused) == ("finished", 5, 1), view
        assert "it answers message" in fleet.shown(run)
    finally:
        fleet.leaves(liar)


def test_a_second_update_a_repeated_one_and_a_late_one_are_folded_by_nobody(fleet: Fleet):
    """The same weights as of a device that answers once."""
    liar = fleet.joins(next(fleet.liars))
    try:
        run = fleet.starts()
        assert fleet.ended(run).replies == 3
        wanted = fleet.weights(run)

        def twice(offered: Offered) -> Iterable[Said]:
            yield offered.says(offered.honest)
            yield offered.with_arrays(lambda weight: weight + 100)
            yield offered.says(offered.honest)

        liar.answering = twice
        again = fleet.starts()
        view = fleet.ended(again)
        assert (view.status, view.replies, view.refused) == ("finished", 3, 0), view
        assert fleet.weights(again) == wanted
        liar.repeat()  # the very message, stamp and all
        for said in twice(liar.offered[-1]):
            liar.answer(said)
        # later answers come through the same connection, and so after those
        third = fleet.starts()
        assert fleet.ended(third).status == "finished"
        assert fleet.ask(f"/runs/{again}").replies == 3
        assert fleet.weights(again) == fleet.weights(third) == wanted
    finally:
        fleet.leaves(liar)


def test_an_answer_in_another_devices_name_is_not_believed(fleet: Fleet, honest_weights):
    """It names the task of an honest device; the broker and the signature say who it is."""
    victim = fleet.devices[0]

    def in_its_name(offered: Offered) -> Iterable[Said]:
        task = victim.offered[-1].task.task if victim.offered else offered.task.task
        yield offered.says(offered.honest, task=task)
        yield offered.with_metrics(num_examples=0)

    liar = fleet.joins(next(fleet.liars), in_its_name)
    try:
        run = fleet.starts()
        view = fleet.ended(run)
        assert (view.status, view.replies, view.refused) == ("finished", 2, 1), view
        assert fleet.weights(run) == honest_weights
    finally:
        fleet.leaves(liar)
