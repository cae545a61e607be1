"""The manager promotes a candidate by itself: within its limits, through the operator's command."""

import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest

from fleet.config import FleetConfig
from fleet.config_promotion import PromotionConfig
from fleet.errors import ConfigError, ConflictError, RefusedError
from fleet.service import (
    promoting,
    publication,
    releases,
    rollouts,
    rounds_roles,
    run_candidates,
    runs,
)
from fleet.service.desk import Desk
from fleet.service.wishes import RolloutWish, RunWish
from fleet.signing import keys as key_files
from fleet.signing.ceremony import load_targets_keys
from fleet.signing.metadata import delegate_rounds
from fleet.signing.rounds_key import make_key, open_key
from tests.ceremonies import PASSPHRASE, Person, found_fleet, running
from tests.finished_runs import FLEET, Member, add_members, finish_run, publish_motion, record_run
from tests.manager_home import make_desk
from tests.waiting import wait_for_run


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    desk = make_desk(tmp_path)
    yield desk
    runs.put_down(desk)
    desk.registry.close()


@pytest.fixture
def person(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Person:
    return Person(tmp_path, capsys)


def give_key(desk: Desk) -> None:
    """Delegate the rounds of the family to the manager, as 'keys rounds create' does."""
    key = make_key(desk.config.keys, "motion", "", dev=True)
    now = datetime.now(UTC)
    signed = delegate_rounds(
        desk.repository.targets_metadata(), "motion", key,
        signers=load_targets_keys(desk.config.keys, "", dev=True)[:1], now=now,
    )  # fmt: skip
    desk.repository.publish(signed, {}, now)


def signed_candidate(desk: Desk, run: str = "run-1", version: str | None = None, **changes):
    """Sign a run's candidate with the rounds' key; ``changes`` are what a thief would write."""
    described = publication.describe_candidate(run_candidates.candidate(desk, run))
    held = releases.targets(desk)
    if "counter" in changes:
        held = msgspec.structs.replace(held, next_counters={"motion": changes["counter"]})
    if "slot" in changes:
        wider = msgspec.structs.replace(described.description, slot=changes["slot"])
        described = replace(described, description=wider)
    if "lineage" in changes:
        described = replace(
            described, lineage=msgspec.structs.replace(described.lineage, **changes["lineage"])
        )
    key = open_key(desk.config.keys, "motion", "", dev=True)
    built, made = publication.sign_release(described, held, [key], version=version, rounds=True)
    for content in built.artifacts.values():
        desk.artifacts.put(content)
    return made


def test_a_run_is_not_promoted_without_a_person_where_nobody_delegated_it(desk: Desk):
    add_members(desk, publish_motion(desk).digest, FLEET)
    with pytest.raises(RefusedError, match="keys rounds create motion"):
        runs.start(desk, RunWish(slot="motion", promote="auto"))
    assert runs.listing(desk) == []


def test_a_candidate_signed_with_the_rounds_key_is_a_release_of_the_same_family(desk: Desk):
    give_key(desk)
    finish_run(desk)
    view = releases.publish(desk, signed_candidate(desk))
    assert (view.target, view.run) == ("models/motion/rounds/v2.json", "run-1")
    assert releases.find(desk, "motion/v2").digest == view.digest
    assert releases.find(desk, view.target).digest == view.digest
    lineage = desk.registry.models.require(view.digest).release.lineage
    assert (lineage.seed, lineage.strategy, lineage.cohort) == (7, "fedavg", ("d-left", "d-right"))


def test_the_manager_keeps_its_role_in_force_from_the_start_and_before_it_runs_out(desk: Desk):
    give_key(desk)
    rounds_roles.keep_alive(desk)
    held = desk.repository.published().delegated["rounds-motion"]
    assert (held.version, held.targets) == (1, {})
    finish_run(desk)
    releases.publish(desk, signed_candidate(desk))
    rounds_roles.keep_alive(desk)
    assert desk.repository.published().delegated["rounds-motion"].version == 2
    later = desk.now_ms() + 50 * 86_400_000
    desk.now_ms = lambda: later
    rounds_roles.keep_alive(desk)
    again = desk.repository.published().delegated["rounds-motion"]
    assert again.version == 3
    assert list(again.targets) == ["models/motion/rounds/v2.json"]


def test_a_role_whose_key_is_gone_keeps_nothing_up(desk: Desk, caplog):
    give_key(desk)
    (desk.config.keys / "online" / "rounds-motion.json").unlink()
    rounds_roles.keep_alive(desk)
    assert "rounds-motion" not in desk.repository.published().delegated
    assert "its key is not in keys/online" in caplog.text


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        pytest.param({"lineage": {"run": "run-9"}}, "finished nowhere here", id="no run of ours"),
        pytest.param({"lineage": {"run": None}}, "of no run", id="no run at all"),
        pytest.param({"lineage": {"parents": ()}}, "does not descend", id="another parent"),
        pytest.param({"slot": "lock"}, "is for slot lock", id="another slot"),
        pytest.param({"counter": 900}, "leaves none out", id="a counter far ahead"),
    ],
)
def test_what_no_run_made_is_refused_although_the_key_signed_it(desk: Desk, changes, why):
    give_key(desk)
    finish_run(desk)
    with pytest.raises(RefusedError, match=why):
        releases.publish(desk, signed_candidate(desk, **changes))
    assert [view.version for view in releases.listing(desk)] == ["v1"]


def test_the_key_signs_so_many_releases_a_day_and_no_more(desk: Desk):
    desk.config = replace(desk.config, promotion=PromotionConfig(per_day=1))
    give_key(desk)
    parent = finish_run(desk)
    record_run(desk, parent.digest, FLEET, run="run-2")
    first = signed_candidate(desk)
    releases.publish(desk, first)
    assert releases.publish(desk, first).version == "v2", "the same one again is no second one"
    with pytest.raises(RefusedError, match="at most 1 may be"):
        releases.publish(desk, signed_candidate(desk, "run-2"))
    tomorrow = desk.now_ms() + 86_400_001
    desk.now_ms = lambda: tomorrow
    assert releases.publish(desk, signed_candidate(desk, "run-2")).version == "v3"


def test_what_it_signed_goes_to_the_devices_of_the_run_and_no_further(desk: Desk):
    give_key(desk)
    parent = finish_run(desk)
    more = {**FLEET, "d-stranger": Member("left", trains=False, before=1, after=2)}
    add_members(desk, parent.digest, more)
    view = releases.publish(desk, signed_candidate(desk))
    with pytest.raises(RefusedError, match="devices of run-1 only, not to d-stranger"):
        rollouts.create(desk, RolloutWish(release=view.digest, select="all"))
    made = rollouts.create(desk, RolloutWish(release=view.digest, devices=tuple(FLEET)))
    assert {d.device for d in made.devices} == set(FLEET)


def test_one_version_is_not_published_in_both_places(desk: Desk):
    give_key(desk)
    finish_run(desk)
    releases.publish(desk, signed_candidate(desk))
    described = publication.describe_candidate(run_candidates.candidate(desk, "run-1"))
    keys = load_targets_keys(desk.config.keys, "", dev=True)[:1]
    built, made = publication.sign_release(described, releases.targets(desk), keys, version="v2")
    for content in built.artifacts.values():
        desk.artifacts.put(content)
    with pytest.raises(ConflictError, match=r"already, as models/motion/rounds/v2.json"):
        releases.publish(desk, made)


@pytest.mark.parametrize(
    ("setting", "why"),
    [({"per_day": 0}, "per_day"), ({"canary": "some"}, "canary"), ({"soak_seconds": -1}, "soak")],
)
def test_settings_that_make_no_sense_are_refused(setting, why):
    with pytest.raises(ConfigError, match=f"promotion.{why}"):
        PromotionConfig(**setting)


@pytest.mark.slow
def test_a_finished_run_becomes_a_release_and_a_rollout_without_a_person(person):
    """Keys with passphrases: the manager's own opens the rounds' key too, in its child."""
    home = found_fleet(person)
    secret = ("--passphrase-file", person.secret)
    offline = person.key("targets-1")
    with running(home) as manager:
        person(
            "keys", "rounds", "create", "motion", "--online-passphrase-file", person.secret,
            "--key", offline, *secret, "--home", home, "--yes",
        )  # fmt: skip
        config = FleetConfig.load(home)
        assert oct((config.keys / "online" / "rounds-motion.json").stat().st_mode)[-3:] == "600"
        signer = [signer_of(offline)]
        manager.ask(lambda desk: finish_run(desk, promote="auto", signers=signer))
        view = wait_for_run(manager, lambda view: view.promotion)
        assert view.promotion.release == "motion v2", view.promotion
        (rollout,) = manager.ask(rollouts.listing)
        assert {d.device for d in rollout.devices} == set(FLEET)
        assert rollout.status != "done"
        assert "released as motion v2" in person("run", "show", "run-1", "--home", home)


@pytest.mark.slow
def test_a_release_whose_rollout_is_refused_is_told_with_the_reason(desk: Desk, tmp_path):
    give_key(desk)
    finish_run(desk, promote="auto")
    view = releases.publish(desk, signed_candidate(desk))
    promoter = promoting.Promoter(desk.config, "")
    promoter.tick(desk)  # the command finds no manager's door here, and says so
    until = time.monotonic() + 60
    while runs.show(desk, "run-1").promotion is None and time.monotonic() < until:
        time.sleep(0.05)
        promoter.tick(desk)
    told = runs.show(desk, "run-1").promotion
    assert told.release == view.name
    assert "manager" in told.why
    promoter.tick(desk)
    steps = desk.registry.runs.journal("run-1")
    assert sum(b'"promoted"' in step for step in steps) == 1, "it is tried once"


@pytest.mark.slow
def test_a_promotion_that_may_not_be_is_noted_with_its_reason_and_not_tried_again(person):
    home = found_fleet(person)
    offline = signer_of(person.key("targets-1"))
    worse = {d: replace(m, after=m.before) for d, m in FLEET.items()}
    with running(home) as manager:
        manager.ask(lambda desk: finish_run(desk, worse, promote="auto", signers=[offline]))
        view = wait_for_run(manager, lambda view: view.promotion)
        assert view.promotion.release is None
        assert "better on no device's decide windows" in view.promotion.why
        assert len(manager.ask(releases.listing)) == 1


def signer_of(path: Path):
    return key_files.load(path, PASSPHRASE)
