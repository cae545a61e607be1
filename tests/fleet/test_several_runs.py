"""Several runs at once, each with devices of its own; runs are held, and say how they go."""

from collections.abc import Iterator
from pathlib import Path
from queue import SimpleQueue

import pytest

from agent.contract.rounds import TaskAnswer
from agent.contract.topics import ROUND_OFFER
from fleet.__main__ import open_door
from fleet.cli.program import main
from fleet.cli.rounds_shown import print_rounds
from fleet.errors import ConflictError, RefusedError
from fleet.rounds.engine import task_name
from fleet.service import runs
from fleet.service.desk import Desk, open_desk
from fleet.service.round_views import grouped
from fleet.service.run_views import plan_of
from fleet.service.views import RunView
from fleet.service.wishes import RunWish
from tests.finished_runs import Member, add_members, publish_motion
from tests.manager_home import make_home, serving

FLEET = {
    f"d-{group}-{number}": Member(group, trains=True, before=1, after=1)
    for group in ("left", "right")
    for number in range(4)
}


class Manager:
    """A desk whose Flower children are real; what they say is taken by ``until_offered``."""

    def __init__(self, folder: Path) -> None:
        self.config = make_home(folder)
        self.desk = self.open()
        self.release = publish_motion(self.desk).digest
        add_members(self.desk, self.release, FLEET)

    def open(self) -> Desk:
        self.words: SimpleQueue = SimpleQueue()  # children of before are heard no more
        words = self.words
        return open_desk(self.config, "", lambda *heard: words.put(heard))

    def restart(self) -> None:
        self.close()
        self.desk = self.open()
        runs.take_up(self.desk)

    def close(self) -> None:
        runs.put_down(self.desk)
        self.desk.registry.close()

    def hear(self) -> None:
        """Take one word of a child."""
        runs.heard(self.desk, *self.words.get(timeout=30))

    def offers(self) -> list[tuple[str, str]]:
        """Return the run and device of every offer that was published."""
        found = [sent.address for sent in self.desk.outgoing]
        self.desk.outgoing.clear()
        return [(a.name or "", a.who) for a in found if a.channel is ROUND_OFFER]

    def decline(self, run: str, device: str, why: str) -> None:
        answer = TaskAnswer(run=run, task=task_name(run, 1, device), outcome="declined", why=why)
        runs.answered(self.desk, device, answer, b"")


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    manager = Manager(tmp_path)
    yield manager
    manager.close()


@pytest.fixture(scope="module")
def idle(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Manager]:
    """A manager of which nothing is asked but what it refuses."""
    manager = Manager(tmp_path_factory.mktemp("idle"))
    yield manager
    manager.close()


def started(manager: Manager, **wish: object) -> RunView:
    """Start a run and let its program ask for its first round."""
    view = runs.start(manager.desk, RunWish(slot="motion", **wish))
    manager.hear()
    return view


def test_two_runs_of_a_slot_go_on_side_by_side_with_devices_of_their_own(manager: Manager):
    left = started(manager, select="group=left")
    first = manager.offers()
    right = started(manager, select="group=right")
    second = manager.offers()

    assert {run for run, _ in first} == {left.id}
    assert {run for run, _ in second} == {right.id}
    assert {d for _, d in first} == {d for d in FLEET if "left" in d}
    assert {d for _, d in second} == {d for d in FLEET if "right" in d}
    assert {v.status for v in runs.listing(manager.desk)} == {"training"}


def test_a_device_that_takes_part_elsewhere_is_left_out_and_counted(manager: Manager):
    started(manager, select="group=left")
    manager.offers()
    view = started(manager)

    assert set(view.participants) == {d for d in FLEET if "right" in d}
    assert view.elsewhere == 4
    assert {d for _, d in manager.offers()} == set(view.participants)


def test_a_run_for_which_nobody_is_left_is_refused_and_leaves_nothing(manager: Manager):
    started(manager)
    with pytest.raises(RefusedError, match="8 of the selected devices take part in run-1; wait"):
        runs.start(manager.desk, RunWish(slot="motion"))
    assert [v.id for v in runs.listing(manager.desk)] == ["run-1"]


def test_a_device_is_free_again_when_its_run_has_ended(manager: Manager):
    started(manager)
    runs.stop(manager.desk, "run-1")
    assert len(started(manager).participants) == len(FLEET)


def test_a_round_asks_more_devices_than_it_wants_and_shows_both(manager: Manager):
    started(manager, clients=4)
    (latest,) = runs.show(manager.desk, "run-1").latest
    assert (latest.named, latest.asked, latest.wanted) == (8, 6, 4)
    assert len(manager.offers()) == 6


def test_a_paused_run_stays_paused_when_the_manager_starts_again(manager: Manager):
    started(manager)
    manager.offers()
    assert runs.pause(manager.desk, "run-1").status == "paused"

    manager.restart()
    manager.hear()
    runs.tick(manager.desk)
    runs.returned(manager.desk, "d-left-1")
    assert manager.offers() == []
    assert runs.show(manager.desk, "run-1").status == "paused"
    assert [row.status for row in manager.desk.registry.runs.listing(active=True)] == ["paused"]

    assert runs.resume(manager.desk, "run-1").status == "training"
    assert len(manager.offers()) == len(FLEET)


def test_only_an_active_run_is_paused_or_resumed(manager: Manager):
    started(manager)
    runs.stop(manager.desk, "run-1")
    for act in (runs.pause, runs.resume):
        with pytest.raises(ConflictError, match="run-1 is stopped; only an active run"):
            act(manager.desk, "run-1")


def test_what_was_wished_for_is_in_the_plan(manager: Manager):
    runs.start(
        manager.desk,
        RunWish(slot="motion", clients=3, minimum_replies=3, deadline_seconds=7),
    )
    (row,) = manager.desk.registry.runs.listing()
    plan = plan_of(row)
    assert (plan.clients, plan.minimum_replies, plan.deadline_seconds) == (3, 3, 7)
    assert (plan.over_selection_percent, plan.offers_per_second) == (130, 200)


def test_reasons_are_shown_in_groups_and_the_round_in_figures(manager: Manager, capsys):
    started(manager, minimum_replies=1)
    for number, device in enumerate(FLEET):
        if "left" in device:
            manager.decline("run-1", device, f"it has {number} train windows; at least 20")
    manager.decline("run-1", "d-right-1", "this device's operator does not let it train")
    manager.decline("run-1", "d-right-1", "this device's operator does not let it train")
    view = runs.show(manager.desk, "run-1")
    (latest,) = view.latest

    assert (latest.asked, latest.answered, latest.without, latest.open) == (8, 0, 5, 3)
    assert (latest.late, latest.again) == (0, 1)
    assert latest.reasons == {
        "it has … train windows; at least …": 4,
        "this device's operator does not let it train": 1,
    }
    print_rounds(view)
    printed = capsys.readouterr().out
    assert "8 of 8" in printed
    assert "4 without a result: it has … train windows; at least …" in printed


def test_sentences_that_differ_in_a_number_or_a_name_are_one_reason():
    told = [
        "task t-00112233445566778899 is being done",
        "task t-ffeeddccbbaa99887766 is being done",
    ]
    assert grouped([*told, "it is hot"]) == {"task … is being done": 2, "it is hot": 1}
    assert grouped(["it has 3 windows"] * 2) == {"it has 3 windows": 2}


def test_a_buffered_run_takes_what_its_devices_can_fill(manager: Manager):
    view = started(manager, mode="async", clients=4, buffer=3)
    (plan,) = (plan_of(row) for row in manager.desk.registry.runs.listing())
    assert (plan.buffer, plan.minimum_replies, view.status) == (3, 2, "training")
    assert len(manager.offers()) == 4
    (latest,) = runs.show(manager.desk, "run-1").latest
    assert (latest.asked, latest.wanted) == (4, 3)


def test_a_buffered_run_has_a_usual_buffer(manager: Manager):
    started(manager, mode="async")
    (plan,) = (plan_of(row) for row in manager.desk.registry.runs.listing())
    assert plan.buffer == len(FLEET)


@pytest.mark.parametrize(
    ("wish", "why"),
    [
        ({"buffer": 3}, "--buffer belongs to --mode async"),
        ({"mode": "async", "strategy": "median"}, "median compares the updates of one round"),
        ({"mode": "async", "buffer": 9}, "a buffer of 9 is more than the 8 devices"),
        ({"mode": "async", "clients": 4, "buffer": 5}, "more than the 4 devices that train at a"),
        ({"mode": "async", "app": "app:app", "app_folder": "/"}, "an app drives rounds of its own"),
        ({"mode": "async", "buffer": 3, "minimum_replies": 4}, "4 replies and wants 3"),
        ({"clients": 4, "minimum_replies": 5}, "must have 5 replies and wants 4; lower --minimum"),
        ({"minimum_replies": 9}, "must have 9 replies and wants 8; lower --minimum"),
    ],
)
def test_rounds_that_could_never_be_as_asked_are_refused_and_leave_nothing(idle, wish, why):
    with pytest.raises(RefusedError, match=why):
        runs.start(idle.desk, RunWish(slot="motion", **wish))
    assert runs.listing(idle.desk) == []


def test_an_operator_starts_holds_and_ends_a_run_by_the_command(manager: Manager, capsys):
    manager.close()

    def run(*words: str) -> str:
        status = 0
        try:
            main(open_door, ["run", *words, "--home", str(manager.config.home)])
        except SystemExit as ended:
            status = int(ended.code or 0)
        told = capsys.readouterr()
        return f"{status}: {told.out}{told.err}"

    with serving(manager.config):
        begun = run("start", "motion", "--clients", "4", "--deadline", "600")
        assert begun.startswith("0: run-1: training, round 0 of 3")
        assert run("pause", "run-1").startswith("0: run-1: paused")
        assert "paused" in run("list")
        taken = run("start", "motion")
        assert "8 of the selected devices take part in run-1; wait for it, stop it" in taken
        assert "[refused]" in taken
        assert run("resume", "run-1").startswith("0: run-1: training")
        assert run("stop", "run-1").startswith("0: run-1: stopped")
        assert "run-1 is stopped; only an active run is paused or resumed" in run("pause", "run-1")
        assert run("start", "motion", "--mode", "async", "--buffer", "0").startswith("2: ")
    manager.desk = manager.open()
