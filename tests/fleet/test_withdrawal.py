"""What withdrawing a release means for devices, and permits to go back to an older one."""

from pathlib import Path

import pytest

from agent.contract.belief import believe_permits, is_permitted
from agent.contract.envelope import Boot
from agent.contract.messages import Reported, SlotReport
from fleet.registry.devices import DeviceState
from fleet.service.desk import Desk
from fleet.service.loop import RunningManager
from tests.ceremonies import Person, first_trust, follow, running
from tests.manager_home import MODEL

pytestmark = pytest.mark.slow

RUNS, ASKED = "d-runs-the-new-one", "d-runs-the-old-one"
BOOT = Boot(1, "00" * 8)


@pytest.fixture
def person(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Person:
    return Person(tmp_path, capsys)


@pytest.fixture
def home(person: Person) -> Path:
    home = person.folder / "home"
    person("init", "--dev", "--broker", "embedded", "--home", home, "--fleet", "demo")
    return home


def publish_two(person: Person, home: Path) -> None:
    for _ in range(2):
        person("model", "publish", MODEL, "--home", home)


def add_devices(desk: Desk) -> None:
    """One runs v2 with v1 as last good; the other runs v1 and is asked to install v2."""
    old, new = (found.assigned for found in desk.registry.models.listing("motion"))
    for device, current, last in ((RUNS, new, old), (ASKED, old, None)):
        devices = desk.registry.devices
        devices.add(
            device, key=device.encode().hex().ljust(64, "0")[:64], group="field",
            hardware="generic-linux", state=DeviceState.ENROLLED, at_ms=1,
        )  # fmt: skip
        devices.want(device, "motion", new, at_ms=1)
        devices.presence(device, BOOT, 1, "online", at_ms=1)
        slot = SlotReport(current=current.digest, last_good=last.digest if last else None)
        reported = Reported(rev=1, ts=1, slots={"motion": slot})
        devices.reported(device, BOOT, reported, at_ms=1)


def wanted(manager: RunningManager) -> dict[str, int]:
    """The counter of the release that each device is wanted to run."""

    def read(desk: Desk) -> dict[str, int]:
        found = desk.registry.devices.desired_by_device()
        return {device: slots["motion"].counter for device, slots in found.items()}

    return manager.ask(read)


def test_a_withdrawn_release_keeps_running_and_is_installed_by_nobody_else(person, home):
    with running(home, "") as manager:
        publish_two(person, home)
        manager.ask(add_devices)
        state = follow(manager, first_trust(home)).state
        status, out, _ = person.tries("model", "withdraw", "motion/v2", "--home", home)
        assert status == 130  # nobody said yes
        assert f"runs on       {RUNS}; they keep running it" in out
        assert f"asked         {ASKED}; they are no longer asked" in out
        assert wanted(manager) == {RUNS: 2, ASKED: 2}
        out = person("model", "withdraw", "motion/v2", "--home", home, "--yes")
        assert "- models/motion/v2.json" in out
        assert f"still running motion/v2: {RUNS}" in out
        assert wanted(manager) == {RUNS: 2, ASKED: 1}
        target = "models/motion/v2.json"
        assert follow(manager, state, target).refused[target].code == "unpublished"
        assert "motion v2 (withdrawn)" in person("model", "list", "--home", home)
        for words in (("rollout", "create", "motion/v2"), ("model", "withdraw", "motion/v2")):
            status, _, err = person.tries(*words, "--home", home)
            assert status == 4
            assert "withdrawn" in err
        status, _, err = person.tries("model", "permit", "motion/v2", "--home", home, "--yes")
        assert status == 5
        assert "withdrawn" in err


def test_a_rollout_of_a_withdrawn_release_stops_and_takes_nobody_back(person, home):
    with running(home, "") as manager:
        publish_two(person, home)
        manager.ask(add_devices)
        person("rollout", "create", "motion/v1", "--device", RUNS, "--one-way", "--home", home)
        out = person("model", "withdraw", "motion/v1", "--home", home, "--yes")
        assert "rollout-1; they stop" in out
        assert "was withdrawn" in person("rollout", "show", "rollout-1", "--home", home)
        assert wanted(manager)[RUNS] == 2


def test_a_permit_reaches_the_devices_it_names_and_ends(person, home):
    with running(home, "") as manager:
        publish_two(person, home)
        manager.ask(add_devices)
        state = follow(manager, first_trust(home)).state
        select = ("--for", f"id={RUNS}")
        out = person("model", "permit", "motion/v1", *select, "--home", home, "--yes")
        assert f"may return to slot motion of {RUNS}" in out
        state = follow(manager, state).state
        permits = believe_permits(state.permits, fleet="demo")
        asked = {
            "slot": "motion",
            "digest": permits[0].release,
            "now_ms": permits[0].expires_ms - 1,
        }
        assert is_permitted(permits, device=RUNS, **asked)
        assert not is_permitted(permits, device=ASKED, **asked)
        withdrawing = person.tries("model", "withdraw", "motion/v2", "--home", home)[1]
        assert "ways back     motion/v1" in withdrawing
        person("model", "permit", "motion/v1", "--end", "--home", home, "--yes")
        state = follow(manager, state).state
        assert believe_permits(state.permits, fleet="demo") == ()
        status, _, err = person.tries(
            "model", "permit", "motion/v1", "--end", "--home", home, "--yes"
        )
        assert status == 5
        assert "no permit" in err


@pytest.mark.parametrize(
    ("words", "status", "why"),
    [
        (("motion/v9",), 4, "no release"),
        (("motion/v1", "--for", "group=nowhere"), 4, "no device is group=nowhere"),
        (("motion/v1", "--for", "colour=red"), 4, "colour"),
        (("motion/v1", "--lasts", "soon"), 3, "30d"),
        (("motion/v1", "--lasts", "0d"), 5, "run out already"),
    ],
)
def test_a_permit_that_makes_no_sense_is_one_sentence(person, home, words, status, why):
    with running(home, ""):
        person("model", "publish", MODEL, "--home", home)
        found = person.tries("model", "permit", *words, "--home", home, "--yes")
        assert found[0] == status
        assert why in found[2]
        assert found[2].count("\n") == 1
