"""A buffered run: answers to several versions count at once, each once, the less the older."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleet.errors import RefusedError
from fleet.rounds import engine
from fleet.rounds.buffered import MAX_STALENESS, open_tasks, whom_to_ask
from fleet.rounds.delivery import folded_of
from fleet.rounds.events import (
    Answered,
    ChildFinished,
    Paused,
    Posted,
    Pushed,
    Resumed,
    Surplus,
    TimedOut,
    decode_event,
    encode_event,
)
from fleet.rounds.fedbuff import Versions
from fleet.rounds.strategies import Strategy
from tests.small_rounds import CrashError, SmallDevice, World, conductor, drive, plan

DEVICES = tuple(f"d-{letter * 4}" for letter in "abcde")
DIGEST = "cd" * 32


def asked(**changes):
    fields = {
        "participants": DEVICES,
        "evaluators": (),
        "buffer": 2,
        "minimum_replies": 1,
        "rounds": 3,
        "strategy": Strategy(),
        **changes,
    }
    return plan(**fields)


def named(ordinal, run="run-1"):
    return tuple(
        Posted(task=engine.task_name(run, ordinal, d), device=d, kind="train", digest=DIGEST)
        for d in DEVICES
    )


class Story:
    """A run that is told event by event; what was journalled is kept."""

    def __init__(self, wish=None) -> None:
        self.plan = wish or asked()
        self.state = engine.RunState()
        self.journal = []
        self.effects = ()

    def tell(self, event):
        before = self.state
        self.state, self.effects = engine.step(self.plan, before, event)
        if self.state is not before:
            self.journal.append(encode_event(event))
        return self

    def push(self):
        ordinal = len(self.state.sends) + 1
        tasks = whom_to_ask(self.plan, self.state, ordinal, named(ordinal))
        return self.tell(Pushed(ordinal=ordinal, tasks=tasks, named=len(DEVICES), at_ms=1000))

    def answer(self, version, letter, outcome="done", norm=None):
        task = engine.task_name("run-1", version, f"d-{letter * 4}")
        return self.tell(Answered(task=task, outcome=outcome, norm=norm, at_ms=2000))

    def asked(self):
        return "".join(t.device[2] for t in self.state.sends[-1].tasks)

    def folded(self):
        names = {t.task: f"{s.ordinal}{t.device[2]}" for s in self.state.sends for t in s.tasks}
        return [[names[task] for task in s.folded] for s in self.state.sends if s.closed]


def test_a_full_buffer_makes_the_next_version_and_slow_devices_go_on_with_theirs():
    story = Story().push().answer(1, "a").answer(1, "b")
    assert story.effects == (engine.Deliver(1),)
    story.push()
    assert story.asked() == "ab"
    story.answer(1, "c").answer(2, "a")
    assert story.effects == (engine.Deliver(2),)
    assert story.folded() == [["1a", "1b"], ["1c", "2a"]]
    assert story.push().asked() == "ac"


def test_what_comes_between_two_versions_waits_in_the_buffer():
    story = Story().push()
    for letter in "abcde":
        story.answer(1, letter)
    assert story.folded() == [["1a", "1b"]]
    story.push()
    assert story.effects == (engine.Offer(story.state.sends[1].tasks), engine.Deliver(2))
    assert story.folded() == [["1a", "1b"], ["1c", "1d"]]
    assert story.state.buffer == (named(1)[4].task,)


def test_the_program_is_told_which_version_each_update_started_from():
    story = Story().push().answer(1, "a").answer(1, "b").push().answer(2, "a").answer(1, "e")
    told = folded_of(story.state, story.state.sends[1], 1, lambda task: task.encode())
    assert {(reply.asked, reply.content is not None) for reply in told} == {(1, True), (2, True)}
    large = folded_of(story.state, story.state.sends[1], 10**6, lambda task: task.encode())
    assert [reply.spooled for reply in large] == [True, True]


def test_an_answer_is_folded_once_however_often_it_comes():
    story = Story().push()
    for _ in range(3):
        story.answer(1, "a")
    assert (story.state.buffer, len(story.journal)) == ((named(1)[0].task,), 2)
    story.tell(Surplus(task=named(1)[0].task, how="again", at_ms=1))
    assert story.state.surplus("again") == 1


def test_a_version_too_old_is_late_and_its_device_is_asked_again():
    story = Story().push()
    for version in range(1, MAX_STALENESS + 2):
        assert "e" in story.asked() or version > 1
        story.answer(version, "a").answer(version, "b").push()
    assert "e" in story.asked()
    before = story.state
    assert story.answer(1, "e").state is before


def test_answers_without_a_result_fill_no_buffer_and_free_their_device():
    story = Story().push().answer(1, "a", "declined").answer(1, "b", "refused").answer(1, "c")
    assert not story.state.sends[0].closed
    story.answer(1, "d")
    assert story.folded() == [["1c", "1d"]]
    assert story.push().asked() == "abcd"


def test_clients_train_at_a_time():
    story = Story(asked(clients=3)).push()
    assert len(story.asked()) == 3
    one, two, three = story.asked()
    story.answer(1, one).answer(1, two).push()
    assert len(story.asked()) == 2
    assert three not in story.asked()


def test_a_version_that_too_few_answer_ends_the_run():
    story = Story(asked(minimum_replies=2)).push().answer(1, "a")
    story.tell(TimedOut(ordinal=1, at_ms=10**9))
    assert story.state.status == "failed"
    assert story.state.why.startswith("1 of 5 devices answered send 1; at least 2 must")


def test_a_deadline_folds_what_there_is():
    story = Story().push().answer(1, "a").tell(TimedOut(ordinal=1, at_ms=10**9))
    assert story.effects == (engine.Deliver(1),)
    assert story.folded() == [["1a"]]


def test_a_step_far_longer_than_the_others_in_the_buffer_is_left_out():
    story = Story(asked(buffer=5, max_norm=10.0)).push()
    for letter in "abcd":
        story.answer(1, letter, norm=1.0)
    story.answer(1, "e", norm=90.0)
    told = folded_of(story.state, story.state.sends[0], 1, lambda task: task.encode())
    assert len(told) == 4
    assert list(story.state.sends[0].outliers) == [named(1)[4].task]


def test_a_program_that_starts_again_is_answered_from_the_journal_and_open_tasks_offered():
    story = Story().push().answer(1, "a").answer(1, "b").push().answer(2, "a")
    first, second = story.state.sends
    again = whom_to_ask(story.plan, story.state, 2, named(2))
    assert again == second.tasks
    story.tell(Pushed(ordinal=1, tasks=first.tasks, at_ms=5))
    still = tuple(t for t in first.tasks if t.device[2] in "cde")
    assert story.effects == (engine.Offer(still), engine.Deliver(1))


def test_a_pause_offers_nothing_and_resuming_offers_every_open_task():
    story = Story().push().answer(1, "a").answer(1, "b").tell(Paused(at_ms=3000)).push()
    assert story.effects == ()
    story.tell(Resumed(at_ms=4000))
    (offer,) = story.effects
    assert {t.device[2] for t in offer.tasks} == set("abcde")


def test_nothing_is_open_when_the_last_version_is_made():
    wish = asked(rounds=1, evaluators=("d-aaaa",))
    story = Story(wish).push().answer(1, "a").answer(1, "b")
    story.tell(ChildFinished(digest=DIGEST, at_ms=5))
    assert story.state.status == "evaluating"
    assert list(open_tasks(story.state)) == []
    before = story.state
    assert story.answer(1, "c").state is before


@given(st.lists(st.tuples(st.integers(1, 6), st.sampled_from("abcde"), st.booleans()), max_size=40))
@settings(max_examples=150, deadline=None)
def test_in_any_order_every_good_answer_is_folded_at_most_once_and_a_replay_agrees(answers):
    story = Story(asked(rounds=10)).push()
    for version, letter, good in answers:
        story.answer(version, letter, "done" if good else "declined")
        if story.state.active and story.state.underway is None:
            story.push()
    folded = [task for tasks in story.folded() for task in tasks]
    assert len(folded) == len(set(folded))
    assert all(len(tasks) == 2 for tasks in story.folded()) or not story.state.active
    journal = [decode_event(line) for line in story.journal]
    assert engine.replay(story.plan, journal) == story.state


def test_an_update_counts_the_less_the_older_the_version_that_it_started_from():
    versions, models = Versions(), []
    for version in (1, 2, 3, 4):
        models.append({"w": np.full((2, 2), float(version), np.float32)})
        versions.keep(version, models[-1])
    moved = [(4, 1.0), (3, 2.0), (1, -4.0)]
    updates = [(v, {"w": models[v - 1]["w"] + np.float32(by)}) for v, by in moved]
    step = versions.step(4, updates)["w"]
    wanted = (1.0 + 2.0 / np.sqrt(2) - 4.0 / np.sqrt(4)) / 3
    assert np.allclose(step, wanted, atol=1e-12)
    assert step.dtype == np.float64


def test_a_version_that_is_not_kept_and_a_step_of_nothing_are_refused():
    versions = Versions()
    for version in range(1, MAX_STALENESS + 3):
        versions.keep(version, {"w": np.zeros(1, np.float32)})
    newest = MAX_STALENESS + 2
    with pytest.raises(RefusedError, match="update to version 1 is given to version 12"):
        versions.step(newest, [(1, {"w": np.zeros(1, np.float32)})])
    assert versions.step(newest, [(2, {"w": np.ones(1, np.float32)})])["w"][0] > 0
    with pytest.raises(RefusedError, match="no step of no updates"):
        versions.step(newest, [])


def five_devices():
    return {name: SmallDevice(seed) for seed, name in enumerate(DEVICES)}


def slow(world, devices):
    """Answer newest first: the oldest task always waits."""

    def answer(device, task, content):
        if task.kind == "train" and len(world.offers) > 0 and device == DEVICES[0]:
            world.offers.append((task, content))
            return None
        return devices[device].answer(task, content)

    return answer


def test_a_buffered_run_learns_and_ends_with_a_candidate():
    world, devices = World(), five_devices()
    wish = asked(rounds=6, evaluators=DEVICES)
    run = conductor(world, wish)
    state = drive(run, world, devices, answer=slow(world, devices))
    assert (state.status, state.rounds_completed) == ("finished", 6)
    assert [len(s.folded) for s in state.sends] == [2] * 6
    assert any(t not in s.by_name for s in state.sends for t in s.folded)
    better = [f.withheld.right > f.withheld_running.right for f in state.figures.values()]
    assert all(better)


def test_a_crash_at_every_journalled_moment_of_a_buffered_run_folds_nothing_twice():
    wish = asked(participants=DEVICES[:3], evaluators=DEVICES[:1])
    healthy, devices = World(), five_devices()
    drive(conductor(healthy, wish), healthy, devices, answer=slow(healthy, devices))
    for moment in range(1, healthy.moments + 1):
        world = World(dies_at=moment)
        with pytest.raises(CrashError):
            drive(conductor(world, wish), world, devices, answer=slow(world, devices))
        world.lose_what_was_underway()
        run = conductor(world, wish)
        before = run.state
        state = drive(run, world, devices, answer=slow(world, devices))
        assert (state.status, state.rounds_completed) == ("finished", 3), f"moment {moment}"
        folded = [task for send in state.sends for task in send.folded]
        assert len(folded) == len(set(folded)) == 6, f"moment {moment}: something twice"
        kept = [s.folded for s in before.sends if s.closed]
        assert [s.folded for s in state.sends][: len(kept)] == kept
