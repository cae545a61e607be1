"""``kill -9`` at every step of a run loses no round, folds no update twice, changes no bit."""

from collections import Counter
from dataclasses import replace

import pytest

from fleet.rounds.events import Answered, Pushed, decode_event
from fleet.rounds.pages import Pages
from tests.killed_rounds import BROKER, CHILD, MANAGER, KilledRun, Plug
from tests.small_rounds import DEVICES, plan

pytestmark = pytest.mark.slow
ASKED = plan(evaluators=DEVICES[:2])


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    run = KilledRun(tmp_path_factory.mktemp("undisturbed"), ASKED, Plug())
    state = run.play()
    assert (state.status, state.rounds_completed, state.replies) == ("finished", 2, 4)
    assert run.alarms == []
    return run, state


def steps_of(run: KilledRun, victim: str) -> list[int]:
    """Numbers of the steps at which a part can be killed: its own, or those of the manager."""
    own = victim if victim in DEVICES else MANAGER
    names = [name.partition(":")[0] for name in run.plug.steps]
    return [n for n, name in enumerate(names, 1) if name in {own, MANAGER}]


def but_for_repetitions(state):
    """Leave out how often an answer came again, which a kill rightly changes."""
    return replace(state, sends=tuple(replace(s, surplus=Pages()) for s in state.sends))


def assert_same(run: KilledRun, state, undisturbed, where: str) -> None:
    healthy, wanted = undisturbed
    assert but_for_repetitions(state) == but_for_repetitions(wanted), where
    assert run.final == healthy.final, where
    assert run.world.spool == healthy.world.spool, where
    events = [decode_event(event) for event in run.world.journal]
    folded = Counter(event.task for event in events if isinstance(event, Answered))
    assert set(folded.values()) == {1}, where
    asked = [event.ordinal for event in events if isinstance(event, Pushed)]
    assert asked == [1, 2], where


@pytest.mark.parametrize("victim", [MANAGER, BROKER, CHILD, *DEVICES[:2]])
def test_a_part_killed_at_every_step_costs_no_round_and_changes_no_bit(
    victim, undisturbed, tmp_path, record_property
):
    steps = steps_of(undisturbed[0], victim)
    for number in steps:
        run = KilledRun(tmp_path / str(number), ASKED, Plug(victim, frozenset({number})))
        state = run.play()
        where = f"{victim} killed at step {number}, {run.plug.steps[number - 1]}"
        assert run.killed == 1, where
        assert_same(run, state, undisturbed, where)
        if victim not in DEVICES:
            assert [d.trained for d in run.devices.values()] == [2, 2], f"{where}: work done again"
    record_property("kills", {"device" if victim in DEVICES else victim: len(steps)})


def test_a_manager_killed_again_as_soon_as_it_is_back_changes_no_bit(
    undisturbed, tmp_path, record_property
):
    steps = steps_of(undisturbed[0], MANAGER)
    for number in steps:
        plug = Plug(MANAGER, frozenset({number, number + 1, number + 2}))
        run = KilledRun(tmp_path / str(number), ASKED, plug)
        assert_same(run, run.play(), undisturbed, f"killed from step {number} on")
    record_property("kills", {"manager again and again": len(steps)})
