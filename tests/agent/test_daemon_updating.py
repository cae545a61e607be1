"""Slots of a running agent when its disk is full, rotten, or its children die."""

from pathlib import Path

import pytest

from agent.errors import (
    AgentError,
    ChildDiedError,
    CorruptError,
    DeadlineError,
    StoreError,
    WorkerError,
)
from agent.infer.external.engines import Engine
from agent.update import journal, machine
from agent.update.slot import Checking, Fetching, Idle
from tests.releases import Published
from tests.slot_life import SLOT, Director, Disk, Life, Story, prepare

OLD, NEW = Published(2), Published(3)
STORY = Story(name="update", before=(OLD,), wishes=(NEW,), ends=NEW, told=((NEW, "succeeded"),))


def begin(tmp_path: Path) -> Life:
    """Return a device that runs the old release and has been started."""
    prepare(STORY, tmp_path)
    life = Life(Disk(tmp_path), STORY, Director(STORY.wishes))
    life.start()
    return life


def until_checking(life: Life) -> None:
    life.updating.tell(SLOT, machine.Wanted(NEW.assigned))
    while not isinstance(life.state.phase, Checking):
        life._todo.popleft()()


def test_a_stored_artifact_that_rotted_is_fetched_again_and_condemns_nothing(tmp_path):
    life = begin(tmp_path)
    until_checking(life)
    life._todo.clear()
    model = life.store.path(NEW.model.digest)
    model.write_bytes(b"?" + model.read_bytes()[1:])
    life.updating.checked(SLOT, NEW.digest, CorruptError("now has another SHA-256"))
    assert life.state.denied == ()
    assert life.state.unreported == ()
    assert not life.store.has(NEW.model.digest)
    life.obey()
    assert life.serving == NEW.digest


def test_a_stored_manifest_that_rotted_is_asked_for_again(tmp_path):
    life = begin(tmp_path)
    life.store.put(NEW.digest, NEW.manifest)
    path = life.store.path(NEW.digest)
    path.write_bytes(b"?" + path.read_bytes()[1:])
    life.obey()
    assert life.serving == NEW.digest


def test_a_rotten_manifest_of_the_running_release_refuses_no_other(tmp_path):
    life = begin(tmp_path)
    life.store.path(OLD.digest).write_bytes(b"rotten")
    life.updating.tell(SLOT, machine.Wanted(NEW.assigned))
    life._todo.popleft()()
    assert isinstance(life.state.phase, Fetching)
    assert life.state.wish is not None
    assert life.state.wish.told == ()


@pytest.mark.parametrize(
    "why",
    [
        pytest.param(ChildDiedError("the check worker was killed by SIGSEGV", 11), id="it died"),
        pytest.param(AgentError("the check worker was stopped after 60 seconds"), id="it hung"),
        pytest.param(WorkerError("runtime.jetson was killed by SIGSEGV"), id="its worker died"),
        pytest.param(DeadlineError("runtime.jetson did not answer"), id="its worker hung"),
    ],
)
def test_a_child_that_dies_three_times_over_a_release_denies_it(tmp_path, why):
    life = begin(tmp_path)
    for tries in range(1, machine.MAX_ATTEMPTS + 1):
        until_checking(life)
        life._todo.clear()
        life.updating.checked(SLOT, NEW.digest, why)
        assert isinstance(life.state.phase, Idle)
        assert life.serving == OLD.digest
        assert (NEW.digest in life.state.denied) == (tries == machine.MAX_ATTEMPTS)


def test_engines_of_what_runs_and_of_the_last_good_stay_and_go_with_their_release(tmp_path):
    newest = Published(4)
    wishes = (NEW, newest)
    told = ((NEW, "succeeded"), (newest, "succeeded"))
    story = Story(name="twice", before=(OLD,), wishes=wishes, ends=newest, told=told)
    prepare(story, tmp_path)
    life = Life(Disk(tmp_path), story, Director(wishes))
    life.start()

    def built(release: Published) -> Engine:
        made = Engine(
            life.disk, release.model.digest, runtime="r", version="1", providers=(), options={}
        )
        made.prepare()
        made.keep()
        return made

    old = built(OLD)
    until_checking(life)
    new = built(NEW)
    life._work()
    assert life.serving == NEW.digest
    assert (old.built, new.built) == (True, True)
    life.updating.tell(SLOT, machine.Wanted(newest.assigned))
    life._work()
    assert life.serving == newest.digest
    assert (old.built, new.built) == (False, True)
    assert not old.path.exists()


def test_a_disk_that_is_full_at_the_start_stops_no_inference_and_begins_no_attempt(tmp_path):
    life = begin(tmp_path)
    until_checking(life)
    blocked = tmp_path / "slots" / f"{SLOT}.json.new"
    blocked.mkdir()
    again = Life(Disk(tmp_path), STORY, Director(STORY.wishes))
    with pytest.raises(StoreError):
        again.start()
    assert again.serving == OLD.digest
    assert not again._todo
    blocked.rmdir()
    again.updating.go_on()
    assert journal.load(again.disk, SLOT).phase == Checking(wanted=NEW.assigned, attempts=2)
    again.obey()
    assert again.serving == NEW.digest


def test_a_wish_that_ran_out_ends_the_try_and_what_ran_goes_on(tmp_path):
    life = begin(tmp_path)
    until_checking(life)
    life.updating.end_try(SLOT)
    assert isinstance(life.state.phase, Idle)
    assert (life.serving, life.state.current) == (OLD.digest, OLD.assigned)
    life.updating.end_try("nowhere")
    assert set(life.updating.states) == {SLOT}


def test_a_report_that_the_disk_refuses_does_not_cost_the_effects_after_it(tmp_path):
    life = begin(tmp_path)
    outcome = machine.Outcome(event_id="0" * 32, release=OLD.digest, outcome="succeeded")
    state = machine.State(
        current=OLD.assigned, phase=Checking(wanted=NEW.assigned), unreported=(outcome,)
    )
    until_checking(life)
    journal.save(life.disk, SLOT, state)
    again = Life(Disk(tmp_path), STORY, Director(STORY.wishes))
    for segment in (tmp_path / "outbox").glob("*.seg"):
        segment.unlink()
        segment.mkdir()
    with pytest.raises(StoreError):
        again.start()
    assert again._todo, "the check was not begun"
