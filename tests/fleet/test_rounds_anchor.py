"""What a head is held near to: the running release's head goes along with what is trained."""

import numpy as np
import pytest

from agent.contract.tensors import decode_message, encode_message
from agent.errors import MalformedError
from agent.learn.trainer import answer_task
from fleet.errors import RefusedError
from fleet.rounds.builtin import run_builtin
from fleet.rounds.events import Training
from fleet.rounds.heads import begin_word, read_final
from fleet.rounds.pipe import Push, Replies, Reply
from fleet.rounds.screen import screen_reply
from fleet.rounds.sends import node_of
from fleet.rounds.strategies import Strategy
from fleet.rounds.usual import training_of
from fleet.service import runs
from fleet.service.run_views import plan_of
from fleet.service.wishes import RunWish
from tests.finished_runs import Member, add_members, publish_motion
from tests.manager_home import make_desk
from tests.small_rounds import (
    DEVICES,
    SmallDevice,
    World,
    conductor,
    drive,
    plan,
    running_head,
)


def ran(rounds, **training):
    """Return the head after so many rounds, and the messages of the last push."""
    asked = plan(rounds=rounds, strategy=Strategy(), training=Training(**training))
    devices = {node_of(name): SmallDevice(seed) for seed, name in enumerate(DEVICES)}
    said = []

    def replies():
        push = said[-1]
        return Replies(
            ordinal=push.ordinal,
            replies=tuple(Reply(node=n, content=c) for n, c in answers(push).items()),
        )

    def answers(push):
        found = {}
        for each in push.instructions:
            message, device = each.content + push.shared, devices[each.node]
            found[each.node] = answer_task(message, "train", device.embed, device.samples).reply
            screen_reply(found[each.node], message)
        return found

    nodes = tuple(sorted(devices))
    begin = begin_word(asked, running_head(), nodes)
    done = run_builtin(begin, Strategy(), said.append, replies)
    pushes = [word for word in said if isinstance(word, Push)]
    message = pushes[-1].instructions[0].content + pushes[-1].shared
    return read_final(done.arrays, running_head()), decode_message(message)


def distance(head):
    return float(np.linalg.norm(head.weight - running_head().weight))


def test_the_running_head_goes_along_with_every_round_where_a_run_asks_so():
    _, message = ran(2, anchor_to="running")
    beside = message.content["running"].items
    assert np.array_equal(beside["weight"], running_head().weight)
    assert not np.array_equal(message.content["arrays"].items["weight"], beside["weight"])
    assert next(iter(message.content)) == "arrays"


def test_a_run_of_before_there_was_a_choice_sends_what_it_sent():
    begin = begin_word(plan(strategy=Strategy()), running_head(), (7,))
    assert set(begin.settings) == {"learning-rate", "epochs", "anchor"}
    _, message = ran(1)
    assert set(message.content) == {"arrays", "config"}


def test_held_near_the_running_head_more_rounds_do_not_lead_further_away():
    near, far = (distance(ran(n, anchor=0.3, anchor_to="running")[0]) for n in (4, 16))
    assert far == pytest.approx(near, rel=0.02)
    near, far = (distance(ran(n, anchor=0.3)[0]) for n in (4, 16))
    assert far > 1.3 * near


def test_a_reply_that_holds_two_records_of_arrays_is_refused_all_the_same():
    _, message = ran(1, anchor_to="running")
    whole = encode_message(message)
    with pytest.raises(MalformedError):
        screen_reply(whole, whole)


@pytest.mark.parametrize(
    ("given", "strategy", "expected"),
    [
        pytest.param({}, Strategy(), (0.005, "running"), id="usual"),
        pytest.param({}, Strategy(name="fedprox"), (0.05, "received"), id="fedprox"),
        pytest.param({}, None, (0.05, "received"), id="an operator's app"),
        pytest.param({"anchor": 0.5}, Strategy(), (0.5, "running"), id="another strength"),
        pytest.param(
            {"anchor_to": "received"}, Strategy(), (0.05, "received"), id="another anchor"
        ),
    ],
)
def test_what_nobody_says_is_as_the_study_found_best(given, strategy, expected):
    asked = {"learning_rate": None, "epochs": None, "anchor": None, "anchor_to": None, **given}
    made = training_of(strategy=strategy, **asked)
    assert (made.anchor, made.anchor_to) == expected
    assert (made.learning_rate, made.epochs) == (0.5, 100)


def test_an_anchor_at_nothing_that_is_known_is_refused():
    with pytest.raises(RefusedError, match="anchor_to"):
        Training(anchor_to="elsewhere")


def test_a_conducted_run_ends_with_the_same_head_as_its_program_alone():
    world = World()
    devices = {name: SmallDevice(seed) for seed, name in enumerate(DEVICES)}
    asked = plan(
        rounds=3,
        participants=DEVICES,
        strategy=Strategy(),
        training=Training(anchor=0.3, anchor_to="running"),
    )
    run = conductor(world, asked, head=running_head())
    state = drive(run, world, devices)
    alone, _ = ran(3, anchor=0.3, anchor_to="running")
    assert state.rounds_completed == 3
    assert np.array_equal(run.candidate().weight, alone.weight)
    assert np.array_equal(run.candidate().bias, alone.bias)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        pytest.param({}, (0.005, "running"), id="usual"),
        pytest.param({"strategy": "fedprox"}, (0.05, "received"), id="fedprox"),
        pytest.param({"anchor_to": "received"}, (0.05, "received"), id="as before"),
    ],
)
def test_a_run_is_started_with_the_anchor_that_it_is_asked_for(tmp_path, asked, expected):
    desk = make_desk(tmp_path)
    release = publish_motion(desk).digest
    members = {f"d-{n}": Member("left", trains=True, before=1, after=1) for n in range(2)}
    add_members(desk, release, members)
    try:
        view = runs.start(desk, RunWish(slot="motion", **asked))
        training = plan_of(desk.registry.runs.find(view.id)).training
        assert (training.anchor, training.anchor_to) == expected
    finally:
        runs.put_down(desk)
        desk.registry.close()
