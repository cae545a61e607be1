"""From a run to a release on real devices without a person; a worse one comes back."""

import runpy
from dataclasses import replace
from pathlib import Path

import pytest

from fleet.cli.client import RefusedByManagerError
from fleet.service.publication import describe_candidate, sign_release
from fleet.service.views import CandidateView, ReleaseView, RolloutView, RunView, TargetsView
from fleet.service.wishes import RolloutWish
from fleet.signing.rounds_key import open_key
from tests.brokers import eventually
from tests.live_fleet import LiveFleet
from tests.manager_home import ROOT

pytestmark = [pytest.mark.broker, pytest.mark.system, pytest.mark.slow, pytest.mark.timeout(600)]
DEVICES = 3


@pytest.fixture(scope="module")
def fleet(tmp_path_factory):
    folder: Path = tmp_path_factory.mktemp("promoted")
    made = LiveFleet(folder, DEVICES)
    settings = made.home / "fleet.toml"
    settings.write_text(settings.read_text() + "\n[promotion]\nsoak_seconds = 0\nper_day = 2\n")
    with made:
        made.roll_out_motion()
        yield made


def runs_on(fleet: LiveFleet, release: str) -> set[str]:
    with fleet.client as client:
        return set(client.get(f"/releases/{release}", ReleaseView).runs_on)


def rollout_of(fleet: LiveFleet, release: str) -> RolloutView:
    with fleet.client as client:
        found = client.get("/rollouts", list[RolloutView])
    return next(view for view in reversed(found) if view.release == release)


def test_a_run_ends_as_a_release_on_devices_that_it_helps_and_a_worse_one_comes_back(fleet):
    guard = min(fleet.folders)
    fleet("keys", "rounds", "create", "motion", "--yes")
    run = fleet.start_run(rounds=2, epochs=60, seed=7, guard=f"id={guard}", promote="auto")
    fleet.ended_run(run)

    def told() -> RunView:
        with fleet.client as client:
            return client.get(f"/runs/{run}", RunView)

    eventually(lambda: told().promotion is not None, 120)
    view = told()
    assert guard not in view.participants
    assert [(c.name, len(c.devices)) for c in view.cohorts] == [("participants", 2), ("guard", 1)]
    assert view.promotion.release == "motion v2", (view.promotion, fleet.words())
    receivers = {j.device for j in view.judged if j.receives}
    assert receivers
    eventually(lambda: rollout_of(fleet, "motion v2").status == "done", 120)
    assert runs_on(fleet, "motion/v2") == receivers
    comes_back(fleet, run, receivers)


def comes_back(fleet: LiveFleet, run: str, receivers: set[str]) -> None:
    """Let a thief of the rounds' key release noise in the run's name; the canary stops it."""
    degrade = runpy.run_path(str(ROOT / "scripts" / "base_model" / "bad_release"))["degrade"]
    with fleet.client as client:
        candidate = client.get(f"/runs/{run}/candidate", CandidateView)
        described = describe_candidate(candidate)
        noise = replace(described, model=degrade(described.model), golden_inputs=None)
        key = open_key(fleet.config.keys, "motion", "", dev=True)
        built, made = sign_release(noise, targets_of(fleet), [key], version=None, rounds=True)
        for digest, content in built.artifacts.items():
            client.put(f"/artifacts/{digest}", content)
        release = client.post("/releases", made, ReleaseView)
        wish = RolloutWish(release=release.digest, devices=tuple(receivers), soak_seconds=0)
        client.post("/rollouts", wish, RolloutView)
    eventually(lambda: rollout_of(fleet, "motion v3").ended_ms is not None, 180)
    assert rollout_of(fleet, "motion v3").status == "halted", fleet.words()
    eventually(lambda: runs_on(fleet, "motion/v3") == set(), 60)
    assert runs_on(fleet, "motion/v2") == receivers
    built, made = sign_release(described, targets_of(fleet), [key], version=None, rounds=True)
    with fleet.client as client:
        for digest, content in built.artifacts.items():
            client.put(f"/artifacts/{digest}", content)
        with pytest.raises(RefusedByManagerError, match="at most 2 may be"):
            client.post("/releases", made, ReleaseView)


def targets_of(fleet: LiveFleet) -> TargetsView:
    with fleet.client as client:
        return client.get("/targets", TargetsView)
