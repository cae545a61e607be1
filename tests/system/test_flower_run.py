"""Unmodified Flower apps in a real fleet: mosquitto, the manager, agents without flwr.

Where devices run an app's other side it goes to them as a signed app, and the run ends with
the arrays of plain federated averaging.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.agents import RunningAgent, write_config
from tests.brokers import eventually
from tests.flower_fleet import APPS
from tests.live_fleet import LEARNING, LiveFleet

pytestmark = [pytest.mark.system, pytest.mark.broker, pytest.mark.slow]

ROUNDS = 2


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveFleet]:
    """Two devices that let apps run."""
    with LiveFleet(tmp_path_factory.mktemp("fleet"), devices=2) as fleet:
        fleet.roll_out_motion()
        for name, folder in fleet.folders.items():
            write_config(folder, f"{LEARNING}apps = true\n")
            fleet.agents[name].child.terminate()
            fleet.agents[name].child.wait(30)
            fleet.agents[name] = RunningAgent(folder)
        eventually(lambda: all(d.apps and d.environments for d in fleet.devices()), 60)
        yield fleet


def plain_average(task, places: list[Path]) -> list[np.ndarray]:
    """Federated averaging in float64 with the app's own training, and nothing of Flower."""
    weights = task.get_weights(task.Net(16))
    for _ in range(ROUNDS):
        made = []
        for place in places:
            net = task.Net(16)
            task.set_weights(net, weights)
            data, _ = task.load_data(place)
            task.train(net, data, 5, 0.3)
            made.append((task.get_weights(net), len(data[1])))
        total = sum(count for _, count in made)
        weights = [
            sum(w[i].astype(np.float64) * (count / total) for w, count in made)
            for i in range(len(weights))
        ]
    return weights


@pytest.mark.parametrize("app", ["motion_mlp", "motion_legacy"])
def test_an_unmodified_app_in_a_real_fleet_equals_plain_averaging(
    fleet: LiveFleet, app: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from importlib import import_module

    monkeypatch.syspath_prepend(str(APPS / app))
    fleet("run", "app", "publish", APPS / app)
    name = app.replace("_", "-")
    run = fleet.start_run(client_app=name, rounds=ROUNDS)
    ended = fleet.ended_run(run)
    assert ended.status == "finished", f"{ended.why}\n{fleet.words()}"
    assert ended.refused == 0

    file = tmp_path / "made.npz"
    fleet("run", "arrays", run, file)
    places = [folder / "labelled.npz" for folder in fleet.folders.values()]
    wanted = plain_average(import_module(f"{app}.task"), places)
    with np.load(file) as found:
        assert len(found.files) == len(wanted)
        for key, plain in zip(found.files, wanted, strict=True):
            np.testing.assert_allclose(found[key], plain, atol=1e-6, rtol=0)


def test_an_unmodified_server_app_ends_with_a_candidate(fleet: LiveFleet):
    told = fleet("run", "start", "motion", "--app-folder", APPS / "motion_head", "--rounds", 2)
    run = told.partition(":")[0]
    ended = fleet.ended_run(run)
    assert (ended.status, ended.rounds_completed) == ("finished", 2), ended.why
    assert ended.refused == 0
    assert len(ended.judged) == 2


@pytest.mark.parametrize(
    ("app", "sentence"),
    [
        ("broken_app:app", "the Flower app raised ValueError: this app is broken"),
        ("idle_app:nothing", "its strategy made no arrays in any round"),
    ],
)
def test_an_app_that_gives_nothing_ends_its_own_run_and_the_next_one_begins(
    fleet: LiveFleet, app: str, sentence: str
):
    run = fleet.start_run(app=app, app_folder=str(APPS), rounds=2)
    ended = fleet.ended_run(run)
    assert ended.status == "failed"
    assert sentence in ended.why
    assert sentence in fleet("run", "show", run)
    assert fleet.online() == 2


def test_a_folder_that_names_no_server_app_starts_no_run(fleet: LiveFleet, tmp_path: Path):
    shutil.copy(APPS / "broken_app.py", tmp_path)
    before = fleet("run", "list", "-o", "json")
    with pytest.raises(AssertionError, match="names no server app: give --app"):
        fleet("run", "start", "motion", "--app-folder", tmp_path)
    assert fleet("run", "list", "-o", "json") == before
