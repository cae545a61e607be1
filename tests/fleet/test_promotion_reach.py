"""Who receives a candidate: narrowed by cohorts and selectors, overridden only aloud."""

import pytest

from fleet.errors import ConflictError
from fleet.service.judged_views import CohortView, JudgedView
from fleet.service.promotion import reach_of, require_receivers
from fleet.service.views import CandidateView

BETTER = JudgedView(device="d-better", trained=True, receives=True, why="")
SAME = JudgedView(device="d-same", trained=True, receives=False, why="")
HELD = JudgedView(device="d-held", trained=False, receives=False, why="", held_back="guard")
GUARD = CohortView(
    name="guard", devices=("d-held",), receives=False, why="it loses", decide=None, withheld=None
)


def candidate(*judged: JudgedView, cohorts=(GUARD,)) -> CandidateView:
    return CandidateView(
        run="run-1", slot="motion", family="motion", parent="ab" * 32, parent_manifest=b"",
        parent_golden=b"", model=b"", rounds=3, cohort=(), judged=judged, cohorts=cohorts,
        receivers=tuple(j.device for j in judged if j.receives),
    )  # fmt: skip


def test_a_worse_guard_narrows_the_promotion_and_its_sentence_says_so():
    reach = reach_of(candidate(BETTER, SAME, HELD))
    assert reach.receivers == ("d-better",)
    assert reach.told[0] == "guard: it loses"
    assert "held back" in reach.told[1]
    assert reach.note == "not for cohorts that get worse: guard"


def test_an_override_sends_it_there_and_the_lineage_says_so():
    reach = reach_of(candidate(BETTER, SAME, HELD), despite_guard=True)
    assert reach.receivers == ("d-better", "d-held")
    assert reach.note == "despite worse cohorts: guard: it loses"


def test_an_override_without_a_worse_cohort_is_not_noted():
    reach = reach_of(candidate(BETTER, cohorts=()), despite_guard=True)
    assert (reach.receivers, reach.told, reach.note) == (("d-better",), (), "")


def test_a_selector_only_narrows():
    reach = reach_of(candidate(BETTER, SAME, cohorts=()), among=["d-same", "d-other"])
    assert reach.receivers == ()
    with pytest.raises(ConflictError, match="none of the selected devices"):
        require_receivers(candidate(BETTER, SAME, cohorts=()), reach)


def test_nobody_receives_where_it_is_better_only_in_a_worse_cohort():
    found = candidate(SAME, HELD)
    with pytest.raises(ConflictError, match=r"makes guard worse by more.*despite-guard"):
        require_receivers(found, reach_of(found))


def test_nobody_receives_what_is_better_nowhere():
    found = candidate(SAME, cohorts=())
    with pytest.raises(ConflictError, match="better on no device"):
        require_receivers(found, reach_of(found))
