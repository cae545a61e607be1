"""Rounds with ten thousand devices: over-selected, offered at a pace, held, and counted once."""

import dataclasses
import time
from collections import Counter
from functools import partial
from pathlib import Path

import pytest

from agent.contract.codec import decode
from agent.contract.rounds import TaskAnswer
from fleet.rounds import engine
from fleet.rounds.doors import Heard
from fleet.rounds.events import (
    Answered,
    ChildFinished,
    EvaluationClosed,
    Failed,
    NotEvaluated,
    Paused,
    Posted,
    Pushed,
    Resumed,
    RunPlan,
    Stopped,
    Surplus,
    TimedOut,
    decode_event,
    encode_event,
)
from fleet.rounds.offering import OFFER_AGAIN_MS, Offering
from fleet.rounds.pages import Pages
from fleet.rounds.pipe import Instruction, Push
from fleet.rounds.sends import choose, lasts_ms, spread_seconds
from fleet.service.turnstile import Turnstile
from tests.small_rounds import World, conductor, plan

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures"
MANY = tuple(f"d-{number:05}" for number in range(10_000))
DIGEST = "cd" * 32
NOW = 1_700_000_001_000


def pushed(asked: RunPlan, ordinal: int = 1, kind: str = "train", at_ms: int = 1000) -> Pushed:
    tasks = tuple(
        Posted(task=engine.task_name(asked.run, ordinal, d), device=d, kind=kind, digest=DIGEST)
        for d in asked.participants
    )
    chosen = choose(asked, ordinal, tasks)
    return Pushed(ordinal=ordinal, tasks=chosen, named=len(tasks), at_ms=at_ms)


def answered(task: Posted, outcome: str = "done", at_ms: int = 2000) -> Answered:
    return Answered(task=task.task, outcome=outcome, at_ms=at_ms)


class Asking:
    """A Flower program that asks every device once; what it gets is kept."""

    def __init__(self, begin, put) -> None:
        self.sent = []
        asks = (Instruction(node=n, kind="train", content=b"%d" % n) for n in begin.nodes)
        put(Push(ordinal=1, instructions=tuple(asks)))

    def send(self, word) -> None:
        self.sent.append(word)

    def close(self) -> None:
        self.sent.append("closed")


def asking(world: World, asked: RunPlan, now_ms: int = NOW):
    """Return a conductor whose program has asked for its first round."""
    run = conductor(world, asked, launch=Asking)
    run.begin(now_ms)
    run.heard(world.words.get(timeout=30), now_ms)
    return run


def declines(run, device: str, ordinal: int = 1, now_ms: int = NOW) -> str:
    task = engine.task_name(plan().run, ordinal, device)
    said = TaskAnswer(run=plan().run, task=task, outcome="declined", why="no windows")
    return run.answered(device, said, b"", now_ms)


def test_a_round_asks_130_percent_drawn_anew_for_each_round_and_alike_in_a_replay():
    asked = plan(participants=MANY, evaluators=(), clients=1000, over_selection_percent=130)
    first, again, second = pushed(asked), pushed(asked), pushed(asked, 2)
    drawn = [{t.device for t in push.tasks} for push in (first, again, second)]
    assert [len(devices) for devices in drawn] == [1300, 1300, 1300]
    assert drawn[0] == drawn[1] != drawn[2]
    other = plan(participants=MANY, clients=1000, over_selection_percent=130, seed=2)
    assert drawn[0] != {t.device for t in pushed(other).tasks}


@pytest.mark.parametrize(
    ("clients", "percent", "devices", "expected"),
    [(0, 130, 10, 10), (4, 130, 10, 6), (4, 100, 10, 4), (9, 130, 10, 10), (40, 130, 10, 10)],
)
def test_no_more_devices_are_asked_than_there_are(clients, percent, devices, expected):
    asked = plan(participants=MANY[:devices], clients=clients, over_selection_percent=percent)
    assert len(pushed(asked).tasks) == expected


def test_who_judges_between_rounds_is_the_programs_choice():
    asked = plan(participants=MANY[:10], clients=2, over_selection_percent=150)
    push = pushed(asked, kind="evaluate")
    state = engine.replay(asked, [push])
    assert (len(push.tasks), state.sends[0].wanted) == (10, 10)


def test_a_round_closes_with_the_answers_it_wants_and_counts_later_ones_once():
    asked = plan(participants=MANY[:10], evaluators=(), clients=4, over_selection_percent=150)
    push = pushed(asked)
    early, late = push.tasks[:4], push.tasks[4:]
    state = engine.replay(asked, [push, *(answered(t) for t in early[:3])])
    state, effects = engine.step(asked, state, answered(early[3]))
    assert (effects, state.sends[0].closed, state.replies) == ((engine.Deliver(1),), True, 4)

    for news in (
        answered(late[0]),
        Surplus(task=late[0].task, how="late", at_ms=3000),
        Surplus(task=late[0].task, how="late", at_ms=3001),
        Surplus(task=early[0].task, how="again", at_ms=3002),
    ):
        state, effects = engine.step(asked, state, news)
        assert effects == ()
    assert (state.surplus("late"), state.surplus("again"), state.replies) == (1, 1, 4)


def test_answers_without_a_result_do_not_close_a_round_before_everybody_answered():
    asked = plan(participants=MANY[:6], clients=4, over_selection_percent=150)
    push = pushed(asked)
    bad = [answered(push.tasks[0], "declined"), answered(push.tasks[1], "refused")]
    state = engine.replay(asked, [push, *bad, *(answered(t) for t in push.tasks[2:5])])
    assert not state.sends[0].closed
    state, _ = engine.step(asked, state, answered(push.tasks[5]))
    assert (state.sends[0].closed, state.sends[0].good) == (True, 4)


def test_ten_thousand_answers_cost_no_square():
    """Copying all answers at each would take half a minute of the processor."""
    asked = plan(participants=MANY, evaluators=MANY, minimum_replies=10_000)
    push = pushed(asked)
    began = time.process_time()
    state = engine.replay(asked, [push])
    for task in push.tasks:
        state, _ = engine.step(asked, state, answered(task))
    state, _ = engine.step(asked, state, ChildFinished(digest=DIGEST, at_ms=3000))
    for device in MANY:
        judged = NotEvaluated(device=device, why="it has 0 decide windows", at_ms=4000)
        state, _ = engine.step(asked, state, judged)
    assert (state.status, state.replies, len(state.silent)) == ("finished", 10_000, 10_000)
    assert time.process_time() - began < 2


def test_ten_thousand_devices_are_offered_at_a_pace_and_taken_without_a_square():
    asked = plan(participants=MANY, evaluators=(), deadline_seconds=60, offers_per_second=200)
    pace, world = Turnstile(at_once=200, per_second=200), World()
    may_offer = partial(pace.lets, "rounds")
    world.doors = dataclasses.replace(world.doors, may_offer=may_offer)
    run = asking(world, asked)
    seconds = [len(world.offers)]
    while len(world.offers) < len(MANY):
        run.tick(NOW + 1000 * len(seconds))
        seconds.append(len(world.offers) - sum(seconds))
    assert (len(seconds), set(seconds)) == (50, {200})
    assert {task.device for task, _ in world.offers} == set(MANY)
    assert {task.spread_seconds for task, _ in world.offers} == {15}
    assert [t.lasts_seconds for t, _ in list(world.offers)[:: len(MANY) - 1]] == [125, 76]

    began = time.process_time()
    made = Counter(declines(run, device) for device in MANY)
    assert made == {"counted": 10_000}
    assert time.process_time() - began < 2
    assert run.state.status == "failed"


def test_devices_that_come_back_all_at_once_are_offered_at_the_pace_too():
    asked = plan(participants=MANY[:1000], offers_per_second=100)
    pace, world = Turnstile(at_once=100, per_second=100), World()
    may_offer = partial(pace.lets, "rounds")
    world.doors = dataclasses.replace(world.doors, may_offer=may_offer)
    run = asking(world, asked)
    world.offers.clear()
    for device in asked.participants:
        run.returned(device, NOW)
    assert len(world.offers) == 0
    run.tick(NOW + 1000)
    assert len(world.offers) == 100


def test_the_deadline_counts_from_the_last_offer():
    asked = plan(participants=MANY, deadline_seconds=60, offers_per_second=200)
    assert (spread_seconds(asked, 199), spread_seconds(asked, 400)) == (0, 2)
    assert spread_seconds(asked, 10_000) == 15
    assert lasts_ms(asked, 10_000) == 125_000
    assert lasts_ms(plan(deadline_seconds=60), 10_000) == 60_000
    state = engine.replay(asked, [pushed(asked, at_ms=1000)])
    assert state.sends[0].deadline_ms == 126_000


def test_a_paused_run_offers_nothing_and_its_deadline_stands_still():
    asked = plan(participants=MANY[:3], evaluators=(), deadline_seconds=100)
    world = World()
    run = asking(world, asked)
    world.offers.clear()
    run.pause(NOW + 30_000)
    run.returned(MANY[0], NOW + 31_000)
    run.tick(NOW + 500_000)
    assert (run.state.status, len(world.offers)) == ("paused", 0)

    run.go_on(NOW + 630_000)
    assert (run.state.status, len(world.offers)) == ("training", 3)
    assert {task.lasts_seconds for task, _ in world.offers} == {70}
    run.tick(NOW + 699_999)
    assert run.state.active
    run.tick(NOW + 700_000)
    assert run.state.status == "failed"


def test_answers_count_while_a_run_is_paused_and_the_next_round_waits():
    asked = plan(participants=MANY[:2], evaluators=(), minimum_replies=1)
    first, second = pushed(asked), pushed(asked, 2, at_ms=9000)
    state = engine.replay(asked, [first, answered(first.tasks[0]), Paused(at_ms=3000)])
    state, effects = engine.step(asked, state, answered(first.tasks[1], at_ms=5000))
    assert (effects, state.replies) == ((engine.Deliver(1),), 2)
    state, effects = engine.step(asked, state, second)
    assert (effects, state.status) == ((), "paused")
    state, effects = engine.step(asked, state, Resumed(at_ms=60_000))
    assert effects == (engine.Offer(second.tasks),)
    assert state.sends[1].deadline_ms == 60_000 + asked.deadline_seconds * 1000


def test_a_pause_holds_the_judging_of_the_candidate():
    asked = plan(participants=MANY[:1], evaluators=MANY[:2], minimum_replies=1)
    push = pushed(asked)
    end = ChildFinished(digest=DIGEST, at_ms=4000)
    state = engine.replay(asked, [push, answered(push.tasks[0]), Paused(at_ms=3000)])
    state, effects = engine.step(asked, state, end)
    assert (effects, state.status) == ((engine.Conclude(),), "paused")
    assert engine.resume(asked, state) == ()
    assert engine.step(asked, state, EvaluationClosed(at_ms=9_000_000)) == (state, ())
    state, effects = engine.step(asked, state, Resumed(at_ms=10_000))
    assert effects == (engine.AskEvaluation(MANY[:2]),)
    assert state.phase.deadline_ms == 10_000 + asked.deadline_seconds * 1000


@pytest.mark.parametrize("last", [Stopped(why="enough", at_ms=5), Failed(why="broken", at_ms=5)])
def test_a_paused_run_can_be_ended(last):
    asked = plan(participants=MANY[:2])
    state = engine.replay(asked, [pushed(asked), Paused(at_ms=3000), last])
    assert (state.active, state.why) == (False, last.why)
    for word in (Resumed(at_ms=9), Paused(at_ms=9)):
        assert engine.step(asked, state, word) == (state, ())


def test_pausing_twice_and_resuming_what_runs_changes_nothing():
    asked = plan(participants=MANY[:2])
    state = engine.replay(asked, [pushed(asked)])
    assert engine.step(asked, state, Resumed(at_ms=9)) == (state, ())
    held, _ = engine.step(asked, state, Paused(at_ms=3000))
    assert engine.step(asked, held, Paused(at_ms=5000)) == (held, ())
    assert engine.step(asked, held, TimedOut(ordinal=1, at_ms=10**12)) == (held, ())


def test_a_late_answer_and_a_second_one_are_journalled_once():
    asked = plan(participants=MANY[:4], evaluators=(), minimum_replies=1)
    world = World()
    run = asking(world, asked)
    assert [declines(run, MANY[0]), declines(run, MANY[0])] == ["counted", "duplicate"]
    journalled = len(world.journal)
    assert declines(run, MANY[0]) == "duplicate"
    assert len(world.journal) == journalled
    again = conductor(world, asked, launch=Asking)
    assert again.state == run.state
    assert again.state.surplus("again") == 1


def test_what_waits_for_its_offer_is_dropped_when_nobody_wants_it_any_more():
    offering = Offering(lambda _now_ms: True)
    offering.add([("t-1", "d-1"), ("t-2", "d-2")])
    assert list(offering.ready(NOW, lambda task, _: task == "t-2")) == [("t-2", "d-2")]
    assert offering.is_empty
    offering.later("t-2", "d-2", NOW, "it is hot")
    assert offering.put_off == {"t-2": "it is hot"}
    assert list(offering.ready(NOW + OFFER_AGAIN_MS - 1, lambda *_: True)) == []
    assert list(offering.ready(NOW + OFFER_AGAIN_MS, lambda *_: True)) == [("t-2", "d-2")]


def test_a_mapping_in_pages_keeps_what_it_was():
    before = Pages().plus("a", 1).plus("b", 2)
    after = before.plus("a", 3)
    assert (before, after, len(after)) == ({"a": 1, "b": 2}, {"a": 3, "b": 2}, 2)
    assert "c" not in after


def test_a_journal_from_before_rounds_were_over_selected_is_read_as_it_was():
    asked = decode(RunPlan, (FIXTURES / "run-plan-v1-rounds.json").read_bytes())
    lines = (FIXTURES / "run-journal-v1-rounds.jsonl").read_bytes().splitlines()
    events = [decode_event(line) for line in lines]
    state = engine.replay(asked, events)
    assert (state.status, state.rounds_completed, state.replies, state.refused) == (
        "finished", 2, 8, 3,
    )  # fmt: skip
    assert state.why == "2 rounds; 1 of 5 devices judged the candidate"
    assert state.silent["d-two"] == "it has 0 decide windows"
    assert state.silent["d-five"] == "it did not answer in time"
    half = engine.replay(asked, events[:9])
    assert {t.device for t in half.sends[1].open_tasks} == {"d-four"}
    assert [decode_event(encode_event(event)) for event in events] == events


def test_words_of_an_earlier_program_are_void():
    world = World()
    run = asking(world, plan(participants=MANY[:2]))
    before = list(world.journal)
    run.heard(Heard(0, Push(ordinal=2, instructions=())), NOW)
    assert world.journal == before
