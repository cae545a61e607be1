"""A whole run under a built-in strategy: devices answer, the child folds, liars are left out."""

from hashlib import sha256

import msgspec
import numpy as np
import pytest

from agent.contract.tensors import ArrayRecord, FlowerMessage, decode_message, encode_message
from fleet.errors import RefusedError
from fleet.rounds.delivery import fetched
from fleet.rounds.engine import task_name
from fleet.rounds.host import FlowerChild
from fleet.rounds.pipe import Fetch
from fleet.rounds.strategies import RULES, Strategy
from tests.small_rounds import (
    DEVICES,
    SmallDevice,
    ThreadChild,
    World,
    conductor,
    drive,
    plan,
    running_head,
    three_devices,
)

MANY = tuple(f"d-{n}" for n in range(6))


def asked(strategy=None, **changes):
    return plan(participants=DEVICES, strategy=strategy or Strategy(), **changes)


def final_of(strategy, launch=ThreadChild, devices=None, **changes):
    world = World()
    run = conductor(world, asked(strategy, **changes), launch=launch)
    state = drive(run, world, devices or three_devices())
    assert state.status == "finished", state.why
    return world.spool["final"], run, state


def test_the_built_in_fedavg_gives_what_flowers_own_gives_to_a_float32():
    own, run, _ = final_of(Strategy())
    world = World()
    flowers = conductor(world, plan(participants=DEVICES))
    drive(flowers, world, three_devices())
    assert own != world.spool["final"]  # float64 sums are rounded once, Flower's at each step
    np.testing.assert_allclose(run.candidate().weight, flowers.candidate().weight, atol=1e-6)
    np.testing.assert_allclose(run.candidate().bias, flowers.candidate().bias, atol=1e-6)


@pytest.mark.parametrize("name", [n for n in RULES if "krum" not in n])
def test_a_run_ends_with_another_head_under_every_strategy(name):
    trim = 0.34 if name == "trimmed-mean" else None
    _, run, state = final_of(Strategy(name=name, trim=trim))
    assert state.rounds_completed == 2
    assert np.abs(run.candidate().weight - running_head().weight).max() > 0.01


@pytest.mark.parametrize("name", ["fedadam", "median"])
def test_replies_that_are_fetched_one_by_one_make_the_same_bytes(name, monkeypatch):
    together, _, _ = final_of(Strategy(name=name))
    monkeypatch.setattr("fleet.rounds.delivery.TOGETHER_BYTES", 0)
    one_by_one, _, _ = final_of(Strategy(name=name))
    in_a_process, _, _ = final_of(Strategy(name=name), launch=FlowerChild)
    assert together == one_by_one == in_a_process


def test_what_is_not_spooled_cannot_be_fetched():
    for ordinal, node, device in ((1, 12345, None), (9, 12345, "d-one")):
        with pytest.raises(RefusedError, match=f"node 12345 to send {ordinal}; none is spooled"):
            fetched("run-1", device, Fetch(ordinal=ordinal, node=node), {}.get)


def exaggerated(said, reply, asked_for, times):
    """The same answer with a step so many times as long, in the other direction."""
    message, start = decode_message(reply), decode_message(asked_for).content["arrays"].items
    arrays = message.content["arrays"].items
    bent = {n: (start[n] - np.float32(times) * (a - start[n])) for n, a in arrays.items()}
    content = {**message.content, "arrays": ArrayRecord(bent)}
    made = encode_message(FlowerMessage(metadata=message.metadata, content=content))
    return msgspec.structs.replace(said, digest=sha256(made).hexdigest()), made


def with_a_liar(strategy, **changes):
    devices = {name: SmallDevice(seed % 3) for seed, name in enumerate(MANY)}

    def answer(device, task, content):
        said, reply = devices[device].answer(task, content)
        lies = device == "d-4" and task.kind == "train"
        return exaggerated(said, reply, content, 50) if lies else (said, reply)

    world = World()
    wanted = plan(participants=MANY, evaluators=MANY, strategy=strategy, **changes)
    run = conductor(world, wanted)
    return drive(run, world, devices, answer=answer), run


def test_a_step_that_is_too_long_is_left_out_of_each_round_with_why():
    state, run = with_a_liar(Strategy(), max_norm=10.0)
    assert (state.status, state.replies, state.refused) == ("finished", 10, 2)
    for send in state.sends:
        assert list(send.outliers) == [task_name("run-1", send.ordinal, "d-4")]
        assert "over 10 times the round's median" in next(iter(send.outliers.values()))
    honest = World()
    rest = tuple(d for d in MANY if d != "d-4")
    alone = conductor(honest, plan(participants=rest, evaluators=rest, strategy=Strategy()))
    drive(alone, honest, {name: SmallDevice(n % 3) for n, name in enumerate(MANY)})
    np.testing.assert_array_equal(run.candidate().weight, alone.candidate().weight)


@pytest.mark.parametrize("name", ["median", "trimmed-mean", "krum", "multi-krum"])
def test_a_robust_rule_is_not_swayed_by_a_liar_that_the_mean_follows(name):
    clean, _ = with_a_liar(Strategy(), max_norm=10.0)
    assert clean.status == "finished"
    robust, _ = with_a_liar(Strategy(name=name))
    poisoned, _ = with_a_liar(Strategy())
    right = {
        what: sum(f.decide.right for f in state.figures.values())
        for what, state in (("robust", robust), ("mean", poisoned))
    }
    assert right["robust"] > right["mean"]


def test_a_device_that_is_left_out_declines_for_the_rest_of_the_run():
    devices, world = three_devices(), World()
    run = conductor(world, asked(rounds=3))
    barred = []

    def answer(device, task, content):
        if run.state.rounds_completed == 1 and not barred:
            barred.append(device)
            run.left("d-three", 1, "it is left out of learning: 3 refused")
        return devices[device].answer(task, content)

    state = drive(run, world, devices, answer=answer)
    assert (state.status, state.replies) == ("finished", 7)
    last = state.sends[-1].answers[task_name("run-1", 3, "d-three")]
    assert (last.outcome, last.why) == ("declined", "it is left out of learning: 3 refused")
    assert state.silent["d-three"] == "it is left out of learning: 3 refused"
