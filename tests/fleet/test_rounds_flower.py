"""An ordinary Flower app drives our devices, and what comes out is what Flower promises."""

import os
import signal
from pathlib import Path

import numpy as np
import pytest

from agent.contract.tensors import ArrayRecord, FlowerMessage, decode_message, encode_message
from agent.learn.samples import Split
from agent.learn.trainer import HeadTraining, LinearHead, train_head
from fleet.rounds.host import FlowerChild
from fleet.rounds.program import MAX_RESTARTS
from tests.small_rounds import (
    DEVICES,
    ThreadChild,
    World,
    conductor,
    drive,
    mean_over_time,
    plan,
    running_head,
    three_devices,
)

pytestmark = pytest.mark.slow

APPS = Path(__file__).resolve().parents[1] / "apps"


def plain_average(devices, rounds, training):
    """Federated averaging in plain NumPy, float64."""
    head = running_head()
    weight, bias = head.weight.astype(np.float64), head.bias.astype(np.float64)
    for _ in range(rounds):
        start = LinearHead(weight=weight.astype(np.float32), bias=bias.astype(np.float32))
        made, counts = [], []
        for device in devices:
            x, y = device.samples.of(Split.TRAIN)
            made.append(train_head(start, mean_over_time(x), y, training))
            counts.append(len(y))
        shares = np.array(counts) / sum(counts)
        weight = sum(s * m.weight.astype(np.float64) for s, m in zip(shares, made, strict=True))
        bias = sum(s * m.bias.astype(np.float64) for s, m in zip(shares, made, strict=True))
    return weight, bias


def test_an_ordinary_flower_app_in_its_own_process_equals_plain_averaging():
    devices, world = three_devices(), World()
    run = conductor(world, plan(rounds=3), launch=FlowerChild)
    state = drive(run, world, devices)
    assert (state.status, state.rounds_completed, state.replies) == ("finished", 3, 6)
    weight, bias = plain_average([devices[d] for d in DEVICES[:2]], 3, HeadTraining())
    found = run.candidate()
    np.testing.assert_allclose(found.weight, weight, atol=1e-6)
    np.testing.assert_allclose(found.bias, bias, atol=1e-6)
    assert np.abs(found.weight - running_head().weight).max() > 0.1


def test_bystanders_judge_but_never_train():
    devices, world = three_devices(), World()
    state = drive(conductor(world), world, devices)
    assert set(state.figures) == set(DEVICES)
    assert devices["d-three"].trained == 0
    assert all(f.decide.windows == f.decide_running.windows for f in state.figures.values())
    assert state.figures["d-one"].decide.accuracy > state.figures["d-one"].decide_running.accuracy


def test_the_order_of_answers_changes_no_bit():
    finals = []
    for direction in (1, -1):
        devices, world = three_devices(), World()
        run = conductor(world, plan(participants=DEVICES))
        run.begin(1)
        while run.state.active:
            offered = list(world.offers)[::direction]
            world.offers.clear()
            for task, content in offered:
                run.answered(task.device, *devices[task.device].answer(task, content), 1)
            if run.state.active:
                run.heard(world.words.get(timeout=30), 1)
        finals.append(world.spool["final"])
        run.close()
    assert finals[0] == finals[1]


def spoiled(reply, change):
    message = decode_message(reply)
    content = dict(message.content)
    change(content)
    return encode_message(FlowerMessage(metadata=message.metadata, content=content))


def poison(content):
    arrays = dict(content["arrays"].items)
    arrays["bias"] = np.full_like(arrays["bias"], np.nan)
    content["arrays"] = ArrayRecord(arrays)


def reshape(content):
    arrays = dict(content["arrays"].items)
    arrays["bias"] = arrays["bias"][:1].copy()
    content["arrays"] = ArrayRecord(arrays)


def own_it(content):
    content["metrics"].items["num-examples"] = 10**18


def forget(content):
    del content["metrics"]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (poison, "not finite"),
        (reshape, "asked was float32 (3,)"),
        (own_it, "num-examples"),
        (forget, "0 metric records"),
        (None, "Flower message"),
    ],
)
def test_one_bad_reply_is_refused_alone(change, sentence):
    from hashlib import sha256

    import msgspec

    devices, world, made = three_devices(), World(), []
    run = conductor(world, plan(participants=DEVICES))

    def answer(device, task, content):
        said, reply = devices[device].answer(task, content)
        if device == "d-three" and task.kind == "train":
            reply = spoiled(reply, change) if change else b""
            said = msgspec.structs.replace(said, digest=sha256(reply).hexdigest())
            made.append(run.answered(device, said, reply, 1))
            return None
        return said, reply

    state = drive(run, world, devices, answer=answer)
    assert (state.status, state.rounds_completed, state.refused) == ("finished", 2, 2)
    assert all(m.startswith("refused") and sentence in m for m in made)
    weight, _ = plain_average([devices[d] for d in DEVICES[:2]], 2, HeadTraining())
    np.testing.assert_allclose(run.candidate().weight, weight, atol=1e-6)


def test_an_operators_app_with_another_strategy_runs_unchanged():
    devices, world = three_devices(), World()
    asked = plan(app="median_app:app", app_folder=str(APPS), participants=DEVICES)
    run = conductor(world, asked, launch=FlowerChild)
    state = drive(run, world, devices)
    assert (state.status, state.rounds_completed) == ("finished", 2), state.why
    # this app evaluates between its rounds: two sends a round
    assert len(state.sends) == 4


def test_an_app_that_raises_ends_the_run_with_its_reason():
    world = World()
    asked = plan(app="broken_app:app", app_folder=str(APPS))
    state = drive(conductor(world, asked), world, three_devices())
    assert state.status == "failed"
    assert "ValueError: this app is broken" in state.why


def test_a_killed_flower_process_is_started_again_and_the_result_is_the_same():
    baseline = World()
    drive(conductor(baseline), baseline, three_devices())
    devices, world, children, killed = three_devices(), World(), [], []

    def launch(begin, put):
        children.append(FlowerChild(begin, put))
        return children[-1]

    run = conductor(world, launch=launch)

    def answer(device, task, content):
        said = devices[device].answer(task, content)
        if not killed and run.state.rounds_completed == 1:
            killed.append(children[0].process_id)
            os.kill(children[0].process_id, signal.SIGKILL)
        return said

    state = drive(run, world, devices, answer=answer)
    assert state.status == "finished"
    assert len(children) == 2
    assert world.spool["final"] == baseline.spool["final"]


def test_a_flower_process_that_always_dies_fails_the_run():
    world, begun = World(), []

    def launch(begin, put):
        child = FlowerChild(begin, put)
        begun.append(child)
        os.kill(child.process_id, signal.SIGKILL)
        return child

    state = drive(conductor(world, launch=launch), world, three_devices())
    assert state.status == "failed"
    assert "status -9" in state.why
    assert len(begun) == MAX_RESTARTS + 1


def test_the_flower_process_gets_no_word_of_the_managers_environment(monkeypatch):
    monkeypatch.setenv("FIELDFARE_SECRET", "not for apps")
    world = World()
    asked = plan(app="telling_app:app", app_folder=str(APPS))
    state = drive(conductor(world, asked, launch=FlowerChild), world, three_devices())
    assert "environment without FIELDFARE names" in state.why


def test_the_thread_and_the_process_give_the_same_bytes():
    finals = []
    for launch in (ThreadChild, FlowerChild):
        world = World()
        drive(conductor(world, launch=launch), world, three_devices())
        finals.append(world.spool["final"])
    assert finals[0] == finals[1]
