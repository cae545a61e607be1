"""The guard of a run: devices that judge and do not train."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from fleet.errors import RefusedError
from fleet.service import run_candidates, runs
from fleet.service.desk import Desk
from fleet.service.run_doors import row_of
from fleet.service.run_views import plan_of
from fleet.service.wishes import RunWish
from tests.finished_runs import FLEET, Member, add_members, finish_run, publish_motion
from tests.manager_home import make_desk


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    desk = make_desk(tmp_path)
    yield desk
    runs.put_down(desk)
    desk.registry.close()


def started(desk: Desk, **wish: str):
    add_members(desk, publish_motion(desk).digest, FLEET)
    view = runs.start(desk, RunWish(slot="motion", **wish))
    return plan_of(row_of(desk, view.id))


def test_a_guard_judges_and_does_not_train_although_it_could(desk: Desk):
    plan = started(desk, guard="id=d-right")
    assert plan.participants == ("d-left",)
    assert set(plan.evaluators) == set(FLEET)


def test_a_guard_may_stand_outside_of_the_selection(desk: Desk):
    plan = started(desk, select="group=left", guard="id=d-guard")
    assert plan.participants == ("d-left",)
    assert plan.evaluators == ("d-left", "d-guard")


def test_without_a_word_every_selected_device_that_only_judges_guards(desk: Desk):
    plan = started(desk)
    assert set(plan.evaluators) - set(plan.participants) == {"d-guard"}


def test_a_guard_that_matches_nobody_starts_nothing(desk: Desk):
    with pytest.raises(RefusedError, match="none of the 0 online devices of the guard 'group=lab'"):
        started(desk, guard="group=lab")
    assert runs.listing(desk) == []


def test_a_guard_that_leaves_nobody_to_train_starts_nothing(desk: Desk):
    with pytest.raises(RefusedError, match="trains"):
        started(desk, guard="all")
    assert runs.listing(desk) == []


def test_a_candidate_is_offered_with_the_verdict_of_every_cohort(desk: Desk):
    worse = {**FLEET, "d-guard": Member("right", trains=False, before=36, after=20)}
    finish_run(desk, worse)
    found = run_candidates.candidate(desk, "run-1")
    assert found.receivers == ("d-left", "d-right")
    assert [(c.name, c.receives) for c in found.cohorts] == [
        ("participants", True), ("guard", False), ("group left", True), ("group right", True),
    ]  # fmt: skip
