"""Which endpoint next: pure decisions, and the property that nobody is stranded."""

from hypothesis import given, settings
from hypothesis import strategies as st

from agent.contract.endpoints import Endpoint
from agent.link.roaming import (
    AwaitProof,
    Due,
    Event,
    Go,
    Keep,
    Listed,
    Moved,
    Opened,
    ProofCame,
    Proved,
    Refused,
    Reverted,
    Roaming,
    Silent,
    TryLater,
    TrySoon,
    step,
)

OLD, NEW, THIRD = (Endpoint(url=f"mqtts://{name}.example") for name in ("old", "new", "third"))
HOME = Roaming(home=OLD, at=OLD)


def after(state: Roaming, *events: Event) -> tuple[Roaming, tuple[object, ...]]:
    """Return the state after events, and the effects of the last."""
    effects: tuple[object, ...] = ()
    for event in events:
        state, effects = step(state, event)
    return state, effects


def trying(*listed: Endpoint) -> Roaming:
    state, effects = after(HOME, Listed(listed), Opened(), Proved(), Due())
    assert effects == (Go(listed[0], at_once=True), AwaitProof())
    return state


def test_a_listed_endpoint_is_tried_after_a_little_jitter():
    assert after(HOME, Opened(), Proved(), Listed((NEW, OLD)))[1] == (TrySoon(),)


def test_a_list_whose_first_is_home_moves_nobody():
    state, effects = after(HOME, Opened(), Proved(), Listed((OLD, NEW)))
    assert effects == ()
    assert after(state, Due())[1] == ()


def test_nothing_is_tried_from_a_home_that_does_not_answer():
    state, _ = after(HOME, Listed((NEW, OLD)), Opened())
    assert after(state, Due()) == (state, ())


def test_an_endpoint_that_answers_becomes_home_and_is_kept():
    state, effects = after(trying(NEW, OLD), Opened(), Proved())
    assert state.home == NEW
    assert effects == (ProofCame(), Keep(NEW), Moved(OLD, NEW, planned=True))


def test_an_endpoint_that_cannot_be_reached_is_left_for_home_at_once():
    state, effects = after(trying(NEW, OLD), Refused("no route"))
    assert (state.home, state.at) == (OLD, OLD)
    assert effects == (
        ProofCame(),
        Go(OLD, at_once=True),
        Reverted(NEW, OLD, "no route"),
        TryLater(),
    )


def test_an_endpoint_that_connects_and_does_not_answer_as_the_fleet_is_left():
    state, effects = after(trying(NEW, OLD), Opened(), Silent(120.0))
    assert state.at == OLD
    assert Reverted(NEW, OLD, "no director answered through it in 120 s") in effects


def test_what_failed_is_tried_again_and_in_between_the_next_of_the_list():
    state, effects = after(trying(NEW, THIRD, OLD), Refused("no route"))
    assert effects[-1] == TrySoon()
    state, effects = after(state, Opened(), Proved(), Due())
    assert effects[0] == Go(THIRD, at_once=True)
    state, effects = after(state, Refused("no route"))
    assert effects[-1] == TryLater()
    assert after(state, Opened(), Proved(), Due())[1][0] == Go(NEW, at_once=True)


def test_home_is_a_way_back_although_it_is_listed_no_more():
    state, effects = after(trying(NEW), Refused("no route"))
    assert state.at == OLD
    assert Go(OLD, at_once=True) in effects


def test_home_that_is_not_listed_is_gone_once_a_listed_one_has_answered():
    state, _ = after(trying(NEW), Opened(), Proved())
    assert state.known == (NEW,)


def test_an_unlisted_home_that_answers_is_not_dropped_and_not_final():
    state, effects = after(HOME, Listed((NEW,)), Opened(), Proved())
    assert state.home == OLD
    assert effects == (ProofCame(), TrySoon())


def test_where_home_fails_all_endpoints_are_gone_through_for_ever():
    state, places = after(HOME, Listed((NEW, THIRD, OLD)))[0], []
    for _ in range(7):
        state, effects = step(state, Refused("no route"))
        places += [e.to for e in effects if isinstance(e, Go)]
    assert places == [NEW, THIRD, OLD, NEW, THIRD, OLD, NEW]


def test_a_device_that_finds_the_fleet_elsewhere_tells_that_home_failed():
    state, effects = after(HOME, Listed((OLD, NEW)), Refused("no route"), Opened(), Proved())
    assert state.home == NEW
    assert Moved(OLD, NEW, planned=False) in effects
    assert effects[-1] == TryLater()


def test_silence_of_the_only_endpoint_moves_nobody():
    assert after(HOME, Opened(), Silent(120.0))[1] == ()


def test_a_silent_endpoint_is_kept_longer_with_each_round():
    state, _ = after(HOME, Listed((OLD, NEW)))
    seconds = []
    for _ in range(6):
        seconds.append(state.dwell_seconds(10.0))
        state, _ = step(state, Silent(1.0))
    assert seconds == [10.0, 10.0, 20.0, 20.0, 40.0, 40.0]


def test_what_fails_again_and_again_is_tried_less_and_less_often():
    state, pauses = trying(NEW, OLD), []
    for _ in range(8):
        state, _ = after(state, Refused("no route"))
        pauses.append(state.pause_seconds(1.0))
        state, _ = after(state, Opened(), Proved(), Due())
    assert pauses == [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 32.0, 32.0]
    state, _ = after(state, Listed((THIRD, OLD)))
    assert state.pause_seconds(1.0) == 1.0


def test_a_tried_endpoint_that_is_struck_from_the_list_is_left():
    state, effects = after(trying(NEW, OLD), Listed((OLD,)))
    assert (state.at, state.trying) == (OLD, False)
    assert Go(OLD, at_once=True) in effects


EVENTS = st.one_of(
    st.builds(
        Listed, st.lists(st.sampled_from((OLD, NEW, THIRD)), unique=True, max_size=3).map(tuple)
    ),
    st.sampled_from((Due(), Opened(), Proved(), Refused("no"), Silent(1.0))),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(EVENTS, max_size=30), st.sampled_from((OLD, NEW, THIRD)))
def test_whatever_happens_a_device_reaches_any_known_endpoint_that_answers(events, working):
    state = after(HOME, *events)[0]
    if working not in state.known:
        return
    for _ in range(2 * len(state.known) + 1):
        if state.at == working:
            break
        state = step(state, Refused("no route"))[0]
    assert state.at == working
    home = after(state, Opened(), Proved())[0].home
    assert home == working or working not in state.listed


@settings(max_examples=300, deadline=None)
@given(st.lists(EVENTS, max_size=30))
def test_home_changes_only_by_an_answer_and_only_to_what_is_listed(events):
    state = HOME
    for event in events:
        before, (state, effects) = state, step(state, event)
        assert state.at in state.known
        if state.home != before.home:
            assert isinstance(event, Proved)
            assert state.home in state.listed or not state.listed
            assert Keep(state.home) in effects
