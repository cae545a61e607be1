"""Unmodified Flower apps, both sides, give what federated averaging in plain NumPy gives.

scripts/test runs these once more on the oldest and the newest flwr of the declared range,
where scikit-learn is as well.
"""

import sys
from hashlib import sha256
from importlib import import_module
from importlib.util import find_spec

import numpy as np
import pytest

from agent.contract.app_bundle import WantedApp
from agent.contract.rounds import TaskAnswer
from agent.contract.tensors import decode_message
from fleet.rounds.heads import read_arrays
from fleet.rounds.host import FlowerChild
from tests.flower_fleet import APPS, NODES, Devices, final_arrays, run_app, write_samples
from tests.small_rounds import DEVICES, World, conductor, drive, plan

pytestmark = pytest.mark.slow

ROUNDS = 3
WAYS = ("flwr", "stand-in")
has_sklearn = pytest.mark.skipif(
    find_spec("sklearn") is None, reason="scikit-learn is where scripts/test tries flwr's ends"
)


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    return write_samples(tmp_path_factory.mktemp("samples"))


@pytest.fixture
def task_of(monkeypatch):
    """The module ``task`` of an app: plain NumPy or scikit-learn, nothing of Flower."""

    def load(app):
        monkeypatch.syspath_prepend(str(APPS / app))
        return import_module(f"{app}.task")

    yield load
    for name in [n for n in sys.modules if n.startswith("motion_")]:
        del sys.modules[name]


def averaged(start, learn, samples):
    """Federated averaging in float64; ``learn`` returns weights and how many examples."""
    weights = start
    for _ in range(ROUNDS):
        made = [learn(weights, samples[node]) for node in NODES]
        total = sum(count for _, count in made)
        weights = [
            sum(w[i].astype(np.float64) * (count / total) for w, count in made)
            for i in range(len(start))
        ]
    return weights


def mlp_average(task, samples):
    def learn(weights, place):
        net = task.Net(16)
        task.set_weights(net, weights)
        data, _ = task.load_data(place)
        task.train(net, data, 5, 0.3)
        return task.get_weights(net), len(data[1])

    return averaged(task.get_weights(task.Net(16)), learn, samples)


def sklearn_average(task, samples):
    def learn(weights, place):
        model = task.get_model(1.0, 20)
        task.set_parameters(model, weights)
        data, _ = task.load_data(place)
        task.fit(model, data)
        return task.get_parameters(model), len(data[1])

    return averaged(task.get_parameters(task.get_model(1.0, 20)), learn, samples)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("app", "average"),
    [
        pytest.param("motion_mlp", mlp_average, id="message api"),
        pytest.param("motion_legacy", mlp_average, id="numpy client"),
        pytest.param("motion_sklearn", sklearn_average, id="scikit-learn", marks=has_sklearn),
    ],
)
def test_an_unmodified_app_ends_with_the_weights_of_plain_averaging(
    app, average, way, samples, task_of
):
    devices = Devices(way, app, samples)
    last, pushes = run_app(app, devices.answer, rounds=ROUNDS)
    assert devices.close() == 0
    wanted = average(task_of(app), samples)
    found = final_arrays(last)
    assert len(found) == len(wanted)
    for ours, plain in zip(found, wanted, strict=True):
        np.testing.assert_allclose(ours, plain, atol=1e-6, rtol=0)
    # training and evaluation in turn, each one push to all
    kinds = [{i.kind for i in p.instructions} for p in pushes]
    assert kinds == [{"train"}, {"evaluate"}] * ROUNDS
    assert all([i.node for i in p.instructions] for p in pushes)


def test_a_run_of_devices_with_an_app_of_theirs_ends_with_its_arrays(samples, task_of):
    devices, world = Devices("stand-in", "motion_mlp", samples), World()
    names = dict(zip(DEVICES, NODES, strict=True))
    asked = plan(
        app="motion_mlp.server_app:app",
        app_folder=str(APPS / "motion_mlp"),
        client_app=WantedApp(target="apps/motion-mlp/1.json", digest="ab" * 32),
        rounds=ROUNDS,
        participants=DEVICES,
    )
    run = conductor(world, asked, launch=FlowerChild)

    def answer(device, task, content):
        reply = devices.answer(names[device], content)
        digest = sha256(reply).hexdigest()
        return TaskAnswer(run=task.run, task=task.task, outcome="done", digest=digest), reply

    state = drive(run, world, {}, answer=answer)
    assert devices.close() == 0
    assert (state.status, state.replies) == ("finished", 2 * ROUNDS * len(DEVICES)), state.why
    assert state.why == "3 rounds; its arrays are no head that devices could judge"
    assert run.candidate() is None
    found = list(read_arrays(world.spool["final"]).values())
    for ours, plain in zip(found, mlp_average(task_of("motion_mlp"), samples), strict=True):
        np.testing.assert_allclose(ours, plain, atol=1e-6, rtol=0)
    again = conductor(world, asked)
    assert (again.state, again.candidate()) == (state, None)


def test_what_devices_measured_comes_back_to_the_app(samples):
    seen = {}
    devices = Devices("flwr", "motion_mlp", samples)

    def answer(node, message):
        reply = devices.answer(node, message)
        record = decode_message(reply).content["metrics"]
        seen.setdefault(frozenset(record.items), []).append(record.items)
        return reply

    last, _ = run_app("motion_mlp", answer, rounds=ROUNDS)
    devices.close()
    trained = seen[frozenset({"train_loss", "num-examples"})][-len(NODES) :]
    total = sum(m["num-examples"] for m in trained)
    loss = sum(m["train_loss"] * m["num-examples"] / total for m in trained)
    assert last.metrics["train_loss"] == pytest.approx(loss)


def test_a_device_that_fails_or_declines_costs_its_own_reply(samples, task_of):
    devices = Devices("flwr", "motion_mlp", samples)
    last, _ = run_app(
        "motion_mlp",
        lambda node, message: None if node == NODES[0] else devices.answer(node, message),
        rounds=ROUNDS,
    )
    devices.close()
    kept = {node: samples[node] for node in NODES[1:]}
    task = task_of("motion_mlp")

    def learn(weights, place):
        net = task.Net(16)
        task.set_weights(net, weights)
        data, _ = task.load_data(place)
        task.train(net, data, 5, 0.3)
        return task.get_weights(net), len(data[1])

    weights = task.get_weights(task.Net(16))
    for _ in range(ROUNDS):
        made = [learn(weights, place) for place in kept.values()]
        total = sum(count for _, count in made)
        weights = [sum(w[i].astype(float) * c / total for w, c in made) for i in range(4)]
    for ours, plain in zip(final_arrays(last), weights, strict=True):
        np.testing.assert_allclose(ours, plain, atol=1e-6, rtol=0)


def test_the_same_run_twice_pushes_the_same_bytes(samples):
    devices = Devices("flwr", "motion_legacy", samples)
    runs = [run_app("motion_legacy", devices.answer, rounds=2) for _ in range(2)]
    devices.close()
    first, second = runs
    assert first[1] == second[1]
    assert first[0] == second[0]
