"""The run engine: replayable, patient with devices, and crash-safe at every moment."""

import dataclasses
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.contract.codec import decode
from agent.contract.messages import Quality
from agent.contract.rounds import TaskAnswer
from fleet.errors import NewerStateError, RefusedError, RegistryError
from fleet.rounds import engine
from fleet.rounds.cohort import better
from fleet.rounds.events import (
    Answered,
    ChildFinished,
    Evaluated,
    EvaluationClosed,
    Failed,
    NotEvaluated,
    Posted,
    Pushed,
    RunEvent,
    RunPlan,
    Stopped,
    TimedOut,
    Training,
    decode_event,
    encode_event,
)
from tests.small_rounds import (
    DEVICES,
    CrashError,
    ThreadChild,
    World,
    conductor,
    drive,
    plan,
    three_devices,
)

FIXTURE = Path(__file__).resolve().parents[1] / "fixtures" / "run-journal-v1.jsonl"
DIGEST = "cd" * 32


def pushed(ordinal, asked=None, digest=DIGEST, kind="train"):
    asked = asked or plan()
    tasks = tuple(
        Posted(task=engine.task_name(asked.run, ordinal, d), device=d, kind=kind, digest=digest)
        for d in asked.participants
    )
    return Pushed(ordinal=ordinal, tasks=tasks, at_ms=1000)


def answered(ordinal, device, outcome="done", why=""):
    task = engine.task_name("run-1", ordinal, device)
    return Answered(task=task, outcome=outcome, why=why, at_ms=2000)


def evaluated(device):
    figures = {"decide": 9, "withheld": 8, "decide_running": 7, "withheld_running": 6}
    quality = {name: Quality(right=right, windows=10) for name, right in figures.items()}
    return Evaluated(device=device, at_ms=3000, **quality)


A_WHOLE_RUN = (
    pushed(1),
    answered(1, "d-one"),
    answered(1, "d-two"),
    pushed(2),
    answered(2, "d-one"),
    answered(2, "d-two"),
    ChildFinished(digest=DIGEST, at_ms=2500),
    evaluated("d-one"),
    evaluated("d-two"),
    NotEvaluated(device="d-three", why="it has 0 decide windows", at_ms=3000),
)


def after(*events: RunEvent, asked=None):
    return engine.replay(asked or plan(), events)


def test_a_whole_run_ends_finished_with_its_counts():
    state = after(*A_WHOLE_RUN)
    assert (state.status, state.rounds_completed, state.replies) == ("finished", 2, 4)
    assert state.why == "2 rounds; 2 of 3 devices judged the candidate"


@pytest.mark.parametrize("cut", range(len(A_WHOLE_RUN) + 1))
def test_late_and_repeated_news_change_nothing(cut):
    state = after(*A_WHOLE_RUN[:cut])
    for old in A_WHOLE_RUN[:cut]:
        again, _ = engine.step(plan(), state, old)
        assert again == state


def test_a_silent_device_costs_only_its_own_reply():
    asked = plan(participants=DEVICES, evaluators=())
    events = [pushed(1, asked), answered(1, "d-one"), answered(1, "d-three")]
    state, effects = engine.step(
        asked, after(*events, asked=asked), TimedOut(ordinal=1, at_ms=200_000)
    )
    assert effects == (engine.Deliver(1),)
    assert (state.status, state.rounds_completed, state.replies) == ("training", 1, 2)
    late, _ = engine.step(asked, state, answered(1, "d-two"))
    assert late == state


def test_too_few_answers_end_the_run_with_the_figures():
    state = after(pushed(1), answered(1, "d-one"), answered(1, "d-two", "declined", "no windows"))
    assert state.status == "failed"
    assert state.why == "1 of 2 devices answered send 1; at least 2 must (no windows)"


def test_a_known_send_is_answered_from_the_journal():
    state = after(*A_WHOLE_RUN[:5])
    assert engine.step(plan(), state, pushed(1)) == (state, (engine.Deliver(1),))
    open_task = pushed(2).tasks[1]
    assert engine.step(plan(), state, pushed(2)) == (state, (engine.Offer((open_task,)),))


def test_a_run_that_diverges_from_its_journal_fails_with_that_reason():
    state, _ = engine.step(plan(), after(*A_WHOLE_RUN[:5]), pushed(1, digest="ee" * 32))
    assert (state.status, state.why) == (
        "failed",
        "the Flower program diverged from its journal at send 1",
    )


def test_a_program_that_trains_nobody_has_no_candidate():
    state = after(ChildFinished(digest=DIGEST, at_ms=1))
    assert state.status == "failed"


def test_the_end_of_the_evaluation_waits_for_nobody():
    state = after(*A_WHOLE_RUN[:8], EvaluationClosed(at_ms=9_000_000))
    assert state.status == "finished"
    assert set(state.silent) == {"d-two", "d-three"}


@pytest.mark.parametrize("last", [Stopped(why="enough", at_ms=5), Failed(why="broken", at_ms=5)])
@pytest.mark.parametrize("cut", range(len(A_WHOLE_RUN)))
def test_a_run_can_be_ended_at_any_moment_and_stays_ended(cut, last):
    ended = after(*A_WHOLE_RUN[:cut], last)
    assert ended.why == last.why
    assert not ended.active
    for event in A_WHOLE_RUN:
        assert engine.step(plan(), ended, event) == (ended, ())


@given(
    st.lists(
        st.sampled_from([*A_WHOLE_RUN, TimedOut(ordinal=1, at_ms=9), Stopped(why="x", at_ms=1)]),
        max_size=25,
    )
)
@settings(max_examples=300, deadline=None)
def test_replaying_what_changed_the_state_gives_the_same_state(events):
    """In any order: only events that changed something are journalled, and they suffice."""
    state, journal = engine.RunState(), []
    for event in events:
        new, _ = engine.step(plan(), state, event)
        if new != state:
            journal.append(encode_event(event))
        state = new
    assert engine.replay(plan(), [decode_event(e) for e in journal]) == state


def test_a_journal_of_version_1_is_read_for_ever():
    state = engine.replay(
        plan(), [decode_event(line) for line in FIXTURE.read_bytes().splitlines()]
    )
    assert state == after(*A_WHOLE_RUN)


def test_a_plan_of_version_1_is_read_for_ever():
    found = decode(RunPlan, FIXTURE.with_name("run-plan-v1.json").read_bytes())
    assert found == plan()
    assert (found.training.epochs, found.training.anchor) == (100, 0.05)


@pytest.mark.parametrize("wrong", [{"learning_rate": 50.0}, {"epochs": 0}, {"anchor": -1.0}])
def test_training_that_every_device_would_refuse_is_refused_at_the_start(wrong):
    with pytest.raises(RefusedError, match="devices take"):
        Training(**wrong)


def test_a_journal_of_a_newer_version_is_refused():
    newer = encode_event(A_WHOLE_RUN[0]).replace(b'"v":1', b'"v":2')
    with pytest.raises(NewerStateError, match="version 2; this program knows 1"):
        decode_event(newer)
    with pytest.raises(RegistryError, match="no event"):
        decode_event(b'{"v":1,"type":"dream"}')


def baseline():
    world = World()
    state = drive(conductor(world), world, three_devices())
    return world, state


def test_a_crash_at_every_journalled_moment_ends_in_the_same_weights():
    healthy, wanted = baseline()
    assert wanted.status == "finished"
    for moment in range(1, healthy.moments + 1):
        world, devices = World(dies_at=moment), three_devices()
        with pytest.raises(CrashError):
            drive(conductor(world), world, devices)
        world.lose_what_was_underway()
        state = drive(conductor(world), world, devices)
        assert world.spool["final"] == healthy.spool["final"], f"moment {moment}"
        assert state == wanted, f"moment {moment}"
        assert len(world.journal) == len(healthy.journal), f"moment {moment}: something twice"
    assert healthy.moments == 2 * len(healthy.journal) + len(healthy.spool)


def test_nothing_is_offered_or_delivered_before_the_event_behind_it_is_journalled():
    world, devices, told = World(), three_devices(), []

    def newest(*kinds: type) -> bool:
        return isinstance(decode_event(world.journal[-1]), kinds)

    def offer(task, content):
        # an offer follows from a push, or from the end of the training
        told.append(("offer", newest(Pushed, ChildFinished)))
        world.offers.append((task, content))

    class Child(ThreadChild):
        def send(self, word):
            # replies follow from the last answer to their push
            told.append(("deliver", newest(Answered, TimedOut)))
            super().send(word)

    world.doors = dataclasses.replace(world.doors, offer=offer)
    run = conductor(world, launch=Child)
    state = drive(run, world, devices)
    assert state.status == "finished"
    assert sorted(told) == [("deliver", True)] * 2 + [("offer", True)] * 7


def test_answers_are_counted_once_and_only_from_their_own_device():
    devices, world, made = three_devices(), World(), []
    run = conductor(world)

    def answer(device, task, content):
        said, reply = devices[device].answer(task, content)
        if task.kind == "train" and device == "d-one":
            made.append(run.answered("d-two", said, reply, 1))
            made.append(run.answered(device, said, reply, 1))
            made.append(run.answered(device, said, reply, 1))
            return None
        return said, reply

    state = drive(run, world, devices, answer=answer)
    assert made == ["unknown", "counted", "duplicate"] * 2
    assert (state.status, state.replies, state.surplus("again")) == ("finished", 4, 2)


def test_a_device_that_defers_is_asked_again_and_one_that_returns_gets_its_open_tasks():
    devices, world = three_devices(), World()
    run = conductor(world)
    deferred = []

    def answer(device, task, content):
        if device == "d-one" and task.task not in deferred:
            deferred.append(task.task)
            later = TaskAnswer(run=task.run, task=task.task, outcome="deferred", why="updating")
            assert run.answered(device, later, b"", 1_700_000_001_000) == "deferred"
            run.tick(1_700_000_007_000)
            return None
        if device == "d-two" and task.task not in deferred:
            deferred.append(task.task)
            run.returned("d-two", 1_700_000_002_000)  # it lost the first offer
            return None
        return devices[device].answer(task, content)

    state = drive(run, world, devices, answer=answer)
    assert (state.status, state.replies, len(state.figures)) == ("finished", 4, 3)


def test_a_dead_device_costs_a_round_its_reply_when_the_deadline_passes():
    devices, world = three_devices(), World()
    run = conductor(world, plan(participants=DEVICES))

    def answer(device, task, content):
        if device == "d-three":
            if not any(d != "d-three" for d in (t.device for t, _ in world.offers)):
                run.tick(1_700_000_900_000)
            else:
                world.offers.append((task, content))
            return None
        return devices[device].answer(task, content)

    state = drive(run, world, devices, answer=answer)
    assert (state.status, state.rounds_completed, state.replies) == ("finished", 2, 4)
    assert state.silent == {"d-three": "it did not answer in time"}


def test_an_operator_can_stop_a_run():
    world = World()
    run = conductor(world)
    run.begin(1)
    run.stop("stopped by an operator", 2)
    assert (run.state.status, run.candidate()) == ("stopped", None)
    assert decode_event(world.journal[-1]).why == "stopped by an operator"


def quality(right, windows=30):
    return Quality(right=right, windows=windows)


def test_only_devices_whose_own_decide_windows_improve_receive():
    verdicts = better(
        {
            "d-worse": (quality(25), quality(24)),
            "d-same": (quality(25), quality(25)),
            "d-better": (quality(20), quality(26)),
            "d-few": (quality(1, 5), quality(5, 5)),
            "d-odd": (quality(5, 20), quality(9, 19)),
        }
    )
    assert [(v.device, v.receives) for v in verdicts] == [
        ("d-better", True),
        ("d-few", False),
        ("d-odd", False),
        ("d-same", False),
        ("d-worse", False),
    ]
    assert verdicts[0].why == "26 of 30 decide windows right, 20 with the running one"
    assert verdicts[1].why == "it has 5 decide windows; at least 10 are needed"


def test_events_keep_their_fields_through_the_journal():
    for event in A_WHOLE_RUN:
        again = decode_event(encode_event(event))
        assert msgspec.to_builtins(again) == msgspec.to_builtins(event)
