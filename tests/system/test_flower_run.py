"""An operator's Flower app drives a real fleet: mosquitto, the manager, agents that train."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.live_fleet import LiveFleet
from tests.manager_home import ROOT

pytestmark = [pytest.mark.system, pytest.mark.broker, pytest.mark.slow]

APPS = ROOT / "tests" / "apps"


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveFleet]:
    with LiveFleet(tmp_path_factory.mktemp("fleet"), devices=2) as fleet:
        fleet.roll_out_motion()
        yield fleet


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
