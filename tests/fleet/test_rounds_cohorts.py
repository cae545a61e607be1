"""A candidate goes to devices where it is better, in cohorts where it is not worse."""

from agent.contract.messages import Quality
from fleet.rounds.cohort import better, cohorts_of, hold_back, judge_cohort
from fleet.rounds.engine import Evaluating, RunState
from fleet.rounds.events import Evaluated
from fleet.service.run_views import judge
from tests.small_rounds import plan


def pair(before: int, after: int, windows: int = 40):
    return Quality(right=before, windows=windows), Quality(right=after, windows=windows)


def verdicts(figures, participants=(), groups=None):
    cohorts = cohorts_of(figures, participants, groups or {})
    return {c.name: judge_cohort(c, figures) for c in cohorts}


def receivers(figures, participants=(), groups=None):
    told = hold_back(better(figures), list(verdicts(figures, participants, groups).values()))
    return [one.device for one in told if one.receives], told


TRAINED = {f"d-{n}": pair(30, 37) for n in range(4)}


def test_a_guard_that_gets_worse_keeps_the_candidate_to_those_who_trained():
    figures = {**TRAINED, **{f"g-{n}": pair(34, 26) for n in range(3)}, "g-lucky": pair(30, 31)}
    found, told = receivers(figures, TRAINED)
    assert found == sorted(TRAINED)
    lucky = next(one for one in told if one.device == "g-lucky")
    assert lucky.held_back == "guard"
    assert "its cohort gets worse: guard" in lucky.why


def test_a_guard_that_loses_no_more_than_chance_explains_holds_nobody_back():
    figures = {**TRAINED, "g-0": pair(34, 32), "g-1": pair(30, 31)}
    assert "g-1" in receivers(figures, TRAINED)[0]
    assert verdicts(figures, TRAINED)["guard"].receives


def test_a_group_that_gets_worse_does_not_receive_although_the_mean_of_all_rises():
    figures = {**{f"a-{n}": pair(20, 38) for n in range(6)}, "b-0": pair(36, 37)}
    figures |= {f"b-{n}": pair(36, 25) for n in range(1, 4)}
    groups = {d: "left" if d < "b" else "right" for d in figures}
    found, _ = receivers(figures, figures, groups)
    assert found == [f"a-{n}" for n in range(6)]
    told = verdicts(figures, figures, groups)
    assert told["participants"].receives
    assert not told["group right"].receives
    assert "worse by more than chance explains" in told["group right"].why


def test_groups_are_cohorts_only_where_there_is_more_than_one():
    assert [c.name for c in cohorts_of(TRAINED, TRAINED, dict.fromkeys(TRAINED, "x"))] == [
        "participants"
    ]


def test_one_device_of_the_guard_is_judged_by_its_own_few_windows():
    assert not verdicts({"g": pair(30, 19)})["guard"].receives
    assert verdicts({"g": pair(30, 26)})["guard"].receives


def told(device: str, decide, withheld) -> Evaluated:
    return Evaluated(
        device=device, decide_running=decide[0], decide=decide[1],
        withheld_running=withheld[0], withheld=withheld[1], at_ms=1,
    )  # fmt: skip


def test_cohorts_are_shown_with_both_splits_and_decided_by_one():
    figures = {
        "d-one": told("d-one", pair(30, 37), pair(30, 0)),
        "d-three": told("d-three", pair(30, 31), pair(0, 0, windows=0)),
    }
    _, cohorts = judge(plan(), RunState(phase=Evaluating(1), figures=figures), {})
    trained, guard = cohorts
    assert (trained.name, guard.name) == ("participants", "guard")
    assert trained.receives  # withheld windows, which get much worse, decide nothing
    assert trained.withheld.change.mean == -0.75
    assert guard.decide.before.accuracy == 0.75
    assert round(guard.decide.worst_decile, 6) == 0.025
    assert guard.withheld is None


def test_a_device_that_tells_nonsense_moves_no_cohort_and_receives_nothing():
    figures = {
        "d-one": told("d-one", pair(30, 31), pair(30, 31)),
        "d-two": told("d-two", pair(0, 10**9), pair(30, 31)),
    }
    judged, (trained,) = judge(plan(), RunState(phase=Evaluating(1), figures=figures), {})
    assert trained.devices == ("d-one",)
    assert [(j.device, j.receives) for j in judged] == [("d-one", True), ("d-two", False)]
    assert "1000000000" in judged[1].why
