"""A run is asked for under a strategy that its devices are enough for, or refused."""

import pytest

from fleet.errors import RefusedError
from fleet.rounds.strategies import Strategy
from fleet.service import runs
from fleet.service.run_strategy import bound_of, enough_replies, strategy_of
from fleet.service.run_views import plan_of
from fleet.service.wishes import RunWish
from tests.finished_runs import Member, add_members, publish_motion
from tests.manager_home import make_desk


def wish(**asked):
    return RunWish(slot="motion", **asked)


def test_without_a_word_about_it_a_run_averages_within_ten_times_the_median():
    assert strategy_of(wish(), app=False) == Strategy(name="fedavg")
    assert bound_of(wish(), app=False) == 10
    assert bound_of(wish(max_norm=0.0), app=False) is None
    assert bound_of(wish(max_norm=4.5), app=False) == 4.5


def test_an_app_brings_its_own_strategy_and_no_bound_unless_asked():
    assert strategy_of(wish(), app=True) is None
    assert bound_of(wish(), app=True) is None
    assert bound_of(wish(max_norm=3.0), app=True) == 3
    for asked in ({"strategy": "fedavg"}, {"byzantine": 1}):
        with pytest.raises(RefusedError, match="leave out --strategy"):
            strategy_of(wish(**asked), app=True)


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        ({"strategy": "sgd"}, "there is no strategy 'sgd'; known are fedavg"),
        ({"strategy": "median", "momentum": 0.3}, "median has no momentum"),
        ({"strategy": "fedprox", "anchor": 0.0}, "anchor of 0 is fedavg"),
    ],
)
def test_a_strategy_that_cannot_be_is_refused(asked, sentence):
    with pytest.raises(RefusedError, match=sentence):
        strategy_of(wish(**asked), app=False)


@pytest.mark.parametrize("bound", [0.5, -1.0, 2e6, float("nan"), float("inf")])
def test_a_bound_below_the_median_or_without_end_is_refused(bound):
    with pytest.raises(RefusedError, match="times the median step"):
        bound_of(wish(max_norm=bound), app=False)


def test_a_round_must_have_the_replies_that_its_strategy_needs():
    krum = Strategy(name="krum")
    assert enough_replies(krum, 2, 8) == 5
    assert enough_replies(krum, 7, 8) == 7
    assert enough_replies(None, 2, 2) == 2
    with pytest.raises(RefusedError, match=r"krum needs 5 replies in every round.*wait for 4"):
        enough_replies(krum, 2, 4)


def test_a_run_remembers_its_strategy_and_its_bound(tmp_path):
    desk = make_desk(tmp_path)
    release = publish_motion(desk).digest
    fleet = {f"d-{n}": Member("left", trains=True, before=1, after=1) for n in range(5)}
    add_members(desk, release, fleet)
    try:
        with pytest.raises(RefusedError, match="krum needs 7 replies"):
            runs.start(desk, wish(strategy="krum", byzantine=2))
        view = runs.start(desk, wish(strategy="multi-krum", max_norm=20.0))
        row = desk.registry.runs.find(view.id)
        plan = plan_of(row)
        assert (plan.strategy, plan.max_norm) == (Strategy(name="multi-krum"), 20)
        assert plan.minimum_replies == 5
    finally:
        runs.put_down(desk)
        desk.registry.close()
