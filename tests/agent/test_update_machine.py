"""The machine's arrows one by one, and what no sequence of events may ever do."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.contract.codec import decode, encode
from agent.contract.messages import OUTCOMES, Assigned, Event, Finding
from agent.update.events import (
    Broken,
    Check,
    Checked,
    CheckFailed,
    Effect,
    Failed,
    Fetch,
    Fetched,
    FetchFailed,
    Forget,
    Prove,
    Proved,
    Report,
    Reported,
    Serve,
    SlotEvent,
    Stopping,
    Wanted,
)
from agent.update.machine import MAX_ATTEMPTS, resume, step
from agent.update.slot import MAX_DENIED, Checking, Fetching, Idle, Outcome, Probing, State

GOOD = (Finding(check="golden-vectors", held=True, why="8 of 8 vectors"),)
BAD = (Finding(check="agreement", held=False, why="both agreed in 9% of 40 windows"),)


def release(number: int) -> Assigned:
    return Assigned(
        target=f"models/motion/{number}.json", digest=f"{number:064x}", counter=number + 1
    )


OLD, NEW, OTHER = release(1), release(2), release(3)
RUNNING = State(current=OLD)


def after(state: State, *events: SlotEvent) -> State:
    for event in events:
        state, _ = step(state, event)
    return state


def story_of(wanted: Assigned) -> tuple[SlotEvent, ...]:
    digest = wanted.digest
    return Wanted(wanted), Fetched(digest), Checked(digest, GOOD), Proved(digest, GOOD)


def settled(state: State) -> State:
    return after(state, *(Reported(outcome.event_id) for outcome in state.unreported))


def probing(start: State = RUNNING, wanted: Assigned = NEW) -> State:
    return after(start, *story_of(wanted)[:3])


def told(effects: tuple[object, ...]) -> list[Outcome]:
    return [effect.outcome for effect in effects if isinstance(effect, Report)]


def test_a_release_is_fetched_checked_served_beside_the_old_one_and_then_kept():
    wanted, fetched, checked, proved = story_of(NEW)
    state, effects = step(RUNNING, wanted)
    assert state.phase == Fetching(wanted=NEW)
    assert effects == (Forget((OLD.digest, NEW.digest)), Fetch(NEW))
    state, effects = step(state, fetched)
    assert (state.phase, effects) == (Checking(wanted=NEW), (Check(NEW),))
    state, effects = step(state, checked)
    assert effects == (Serve(NEW, beside=OLD), Prove(NEW, OLD, GOOD))
    assert (state.current, state.candidate, state.serving) == (OLD, NEW, NEW)
    state, effects = step(state, proved)
    assert (state.current, state.last_good, state.phase) == (NEW, OLD, Idle())
    outcome = state.unreported[0]
    assert (outcome.outcome, outcome.release, outcome.findings) == ("succeeded", NEW.digest, GOOD)
    assert effects == (Serve(NEW), Report(outcome), Forget((NEW.digest, OLD.digest)))
    assert after(state, Reported(outcome.event_id)).unreported == ()


def test_a_failed_probation_goes_back_denies_the_release_and_says_why():
    state, effects = step(probing(), Failed(NEW.digest, BAD))
    (outcome,) = state.unreported
    assert effects == (Serve(OLD), Report(outcome), Forget((OLD.digest,)))
    assert (outcome.outcome, outcome.code) == ("failed_rolled_back", "probation")
    assert outcome.why == BAD[0].why
    assert (state.current, state.candidate, state.denied) == (OLD, None, (NEW.digest,))


def test_a_first_install_that_fails_leaves_nothing_serving():
    state, effects = step(probing(State()), Failed(NEW.digest, BAD))
    assert effects[0] == Serve(None)
    assert state.serving is None
    assert state.unreported[0].outcome == "failed_no_change"


@pytest.mark.parametrize(
    ("events", "word", "code"),
    [
        pytest.param(
            (FetchFailed(NEW.digest, "mismatch", "not for this hardware", retryable=False),),
            "rejected",
            "mismatch",
            id="a release that may not be believed",
        ),
        pytest.param(
            (Fetched(NEW.digest), CheckFailed(NEW.digest, BAD)),
            "failed_no_change",
            "check",
            id="golden vectors that are not reproduced",
        ),
    ],
)
def test_a_failure_before_activation_never_touches_what_serves(
    events: tuple[SlotEvent, ...], word: str, code: str
):
    state = after(RUNNING, Wanted(NEW))
    for event in events:
        state, effects = step(state, event)
        assert not [e for e in effects if isinstance(e, Serve)]
    assert (state.unreported[0].outcome, state.unreported[0].code) == (word, code)
    assert state.denied == (() if word == "rejected" else (NEW.digest,))
    state = settled(state)
    assert step(state, Wanted(NEW)) == (state, ()), "the standing wish is answered"


def test_a_release_that_was_refused_is_tried_again_at_a_new_wish():
    refused = FetchFailed(NEW.digest, "rollback", "counter 2 is below 5", retryable=False)
    state = settled(after(RUNNING, Wanted(NEW), refused, Wanted(OLD)))
    assert Fetch(NEW) in step(state, Wanted(NEW))[1]


def test_the_floor_never_falls():
    state = after(RUNNING, *story_of(NEW), Wanted(OLD), Fetched(OLD.digest))
    state = after(state, Checked(OLD.digest, GOOD))
    assert (state.current, state.floor) == (OLD, NEW.counter)


def test_a_fetch_that_may_work_later_is_tried_again_and_reported_once():
    lost = FetchFailed(NEW.digest, "link", "no answer for 60 s", retryable=True)
    state, effects = step(after(RUNNING, Wanted(NEW)), lost)
    assert [(o.outcome, o.retryable) for o in told(effects)] == [("failed_no_change", True)]
    assert effects[-1] == Forget((OLD.digest, NEW.digest)), "the fetched part must stay"
    assert state.denied == ()
    state, effects = step(state, Wanted(NEW))
    assert Fetch(NEW) in effects
    state, effects = step(state, lost)
    assert told(effects) == []
    full = FetchFailed(NEW.digest, "disk-full", "no space left", retryable=True)
    state, effects = step(after(state, Wanted(NEW)), full)
    assert [o.code for o in told(effects)] == ["disk-full"]


def test_the_standing_wish_for_a_release_that_just_failed_says_nothing_more():
    state = settled(after(probing(), Failed(NEW.digest, BAD)))
    assert step(state, Wanted(NEW)) == (state, ())


def test_a_new_wish_for_a_denied_release_is_rejected_once():
    state = settled(after(probing(), Failed(NEW.digest, BAD), Wanted(OLD)))
    state, effects = step(state, Wanted(NEW))
    assert [(o.outcome, o.code) for o in told(effects)] == [("rejected", "denied")]
    assert len(effects) == 1
    state = settled(state)
    assert step(state, Wanted(NEW)) == (state, ())


@pytest.mark.parametrize("reached", [1, 2, 3])
def test_another_wish_supersedes_a_try_and_its_late_news_is_ignored(reached: int):
    state = after(RUNNING, *story_of(NEW)[:reached])
    state, effects = step(state, Wanted(OTHER))
    assert state.phase == Fetching(wanted=OTHER)
    assert effects[-1] == Fetch(OTHER)
    assert (Serve(OLD) in effects) == (reached == 3)
    for late in (Fetched, lambda d: Checked(d, GOOD), lambda d: Proved(d, GOOD)):
        assert step(state, late(NEW.digest)) == (state, ())
    assert after(state, *story_of(OTHER)[1:]).current == OTHER


@pytest.mark.parametrize("wish", [None, OLD], ids=["an empty wish", "a wish for what runs"])
def test_a_try_ends_without_a_report_by(wish: Assigned | None):
    state, effects = step(probing(), Wanted(wish))
    assert effects == (Serve(OLD), Forget((OLD.digest,)))
    assert (state.current, state.phase, state.unreported) == (OLD, Idle(), ())


def test_an_empty_wish_leaves_what_runs_running():
    state, effects = step(RUNNING, Wanted(None))
    assert (state, effects) == (RUNNING, ())


def test_a_wish_for_the_last_good_release_needs_no_second_probation():
    state = settled(after(RUNNING, *story_of(NEW)))
    state = after(state, Wanted(OLD), Fetched(OLD.digest))
    state, effects = step(state, Checked(OLD.digest, GOOD))
    assert (state.current, state.last_good, state.phase) == (OLD, None, Idle())
    assert effects[0] == Serve(OLD)
    assert [o.outcome for o in told(effects)] == ["succeeded"]
    assert [f.check for f in told(effects)[0].findings] == ["golden-vectors", "proved-before"]


def test_a_last_good_release_that_fails_its_check_is_no_longer_last_good():
    state = after(RUNNING, *story_of(NEW), Wanted(OLD), Fetched(OLD.digest))
    state = after(state, CheckFailed(OLD.digest, BAD))
    assert (state.current, state.last_good, state.denied) == (NEW, None, (OLD.digest,))


@pytest.mark.parametrize(("reached", "word"), [(2, "failed_no_change"), (3, "failed_rolled_back")])
def test_a_model_that_stops_the_agent_again_and_again_is_given_up(reached: int, word: str):
    state = after(RUNNING, *story_of(NEW)[:reached])
    for _ in range(MAX_ATTEMPTS - 1):
        state, effects = resume(state)
        assert isinstance(effects[-1], Check if reached == 2 else Prove)
    state, effects = resume(state)
    (outcome,) = state.unreported
    assert effects == (Serve(OLD), Report(outcome), Forget((OLD.digest,)))
    assert (outcome.outcome, outcome.code) == (word, "attempts")
    assert str(MAX_ATTEMPTS) in outcome.why
    assert state.denied == (NEW.digest,)


def test_a_clean_stop_is_no_attempt():
    state = probing()
    for _ in range(10):
        state, effects = resume(after(state, Stopping()))
        assert isinstance(effects[-1], Prove)


@pytest.mark.parametrize("reached", [0, 1, 2, 3, 4])
def test_a_start_serves_first_and_repeats_what_was_going_on(reached: int):
    before = after(RUNNING, *story_of(NEW)[:reached])
    state, effects = resume(before)
    serve, *rest = effects
    assert serve == Serve(before.serving, before.beside)
    expected = {0: [Forget], 1: [Fetch], 2: [Check], 3: [Prove], 4: [Report, Forget]}
    assert [type(e) for e in rest] == expected[reached]
    assert (state is before) == (reached in {0, 1, 4}), "only an attempt is counted"


def test_an_outcome_has_the_same_id_however_often_it_is_told():
    state = after(RUNNING, *story_of(NEW))
    (first,) = told(step(after(RUNNING, *story_of(NEW)[:3]), story_of(NEW)[3])[1])
    (again,) = told(resume(state)[1])
    assert first == again


def test_two_tries_of_one_release_have_different_ids_and_two_devices_different_events():
    fail = Failed(NEW.digest, BAD, retryable=True)
    one = after(probing(), fail)
    two = after(probing(one), fail)
    first, second = two.unreported
    assert first.event_id != second.event_id
    ids = {first.event(device, "motion", 0, 0).id for device in ("d-one", "d-two")}
    assert len(ids) == 2


def test_an_outcome_becomes_an_event_that_the_fleet_can_read():
    state = after(probing(), Failed(NEW.digest, (*BAD, *(BAD * 40))))
    event = state.unreported[0].event("d-abc", "motion", 1, 2)
    assert decode(Event, encode(event)) == event
    assert event.outcome in OUTCOMES


def test_probation_without_enough_evidence_is_repeated_but_not_for_ever():
    undecided = Failed(NEW.digest, BAD, retryable=True)
    state, tries = RUNNING, 0
    while not state.denied:
        state, tries = after(probing(settled(state)), undecided), tries + 1
        assert state.unreported[-1].retryable == (tries < MAX_ATTEMPTS)
        assert state.serving == OLD
    assert tries == MAX_ATTEMPTS


@pytest.mark.parametrize(
    ("last_good", "word"), [(OTHER, "failed_rolled_back"), (None, "failed_not_rolled_back")]
)
def test_a_broken_current_release_falls_back_as_far_as_it_can(
    last_good: Assigned | None, word: str
):
    state = State(current=OLD, last_good=last_good)
    state, effects = step(state, Broken(OLD.digest, "corrupt", "its bytes rotted"))
    assert effects == (Serve(last_good), Report(state.unreported[0]))
    assert (state.current, state.last_good) == (last_good, None)
    assert state.unreported[0].outcome == word
    assert Fetch(OLD) in step(state, Wanted(OLD))[1], "it may be fetched again"


def test_a_broken_release_ends_the_return_to_the_one_that_now_serves():
    state = after(State(current=OLD, last_good=OTHER), Wanted(OTHER))
    state = after(state, Broken(OLD.digest, "corrupt", "its bytes rotted"))
    assert (state.current, state.phase) == (OTHER, Idle())


def test_the_deny_list_keeps_the_newest():
    state = RUNNING
    for number in range(10, 10 + MAX_DENIED + 5):
        state = settled(after(probing(state, release(number)), Failed(release(number).digest, BAD)))
    assert len(state.denied) == MAX_DENIED
    assert state.denied[-1] == release(10 + MAX_DENIED + 4).digest
    assert state.denied[0] == release(15).digest


RELEASES = [release(n) for n in range(4)]
_DIGEST = st.sampled_from([r.digest for r in RELEASES])
_FOUND = st.sampled_from([GOOD, BAD, ()])
_CODE = st.sampled_from(["link", "mismatch", "disk-full"])
EVENTS = st.one_of(
    st.builds(Wanted, st.sampled_from([*RELEASES, None])),
    st.builds(Fetched, _DIGEST),
    st.builds(FetchFailed, _DIGEST, _CODE, st.just("why"), retryable=st.booleans()),
    st.builds(Checked, _DIGEST, _FOUND),
    st.builds(CheckFailed, _DIGEST, _FOUND, retryable=st.booleans()),
    st.builds(Proved, _DIGEST, _FOUND),
    st.builds(Failed, _DIGEST, _FOUND, retryable=st.booleans()),
    st.builds(Broken, _DIGEST, _CODE, st.just("why")),
    st.just(Stopping()),
    st.just("restart"),
    st.just("reported"),
    st.just("next"),
)


def _next_of(state: State, *, well: bool) -> SlotEvent | None:
    """What a working device would say next, so that random stories get far."""
    match state.phase:
        case Fetching(wanted=w):
            return Fetched(w.digest)
        case Checking(wanted=w):
            return Checked(w.digest, GOOD)
        case Probing(wanted=w):
            return Proved(w.digest, GOOD) if well else Failed(w.digest, BAD)
        case _:
            return None


@settings(deadline=None)
@given(st.lists(st.tuples(EVENTS, st.booleans()), max_size=60))
def test_no_story_loses_what_serves_serves_a_denied_release_or_forgets_a_kept_one(
    story: list[tuple[SlotEvent | str, bool]],
):
    state, serving, ids = State(), None, set()
    for word, well in story:
        before, event = state, _next_of(state, well=well) if word == "next" else word
        if event == "restart":
            state, effects = resume(state)
        elif event == "reported":
            state, effects = settled(state), ()
        else:
            state, effects = (state, ()) if event is None else step(state, event)
        for effect in effects:
            serving = _allowed(state, effect, serving)
        fresh = {o.event_id for o in state.unreported if o not in before.unreported}
        assert not ids & fresh, "two ends share an id"
        ids |= fresh
        assert state == before or state.revision > before.revision
        assert serving == state.serving, "what is served is what the journal says"
        if before.current and not isinstance(event, Broken):
            assert state.serving is not None, "something served, and now nothing does"
        _is_sound(state)


def _allowed(state: State, effect: Effect, serving: Assigned | None) -> Assigned | None:
    """Refuse an effect that this state must not have, and return what serves after it."""
    match effect:
        case Serve(release=answers, beside=beside):
            assert beside == state.beside
            return answers
        case Forget(keep=keep):
            assert set(state.kept) <= set(keep)
        case Report(outcome=outcome):
            assert outcome.outcome in OUTCOMES
            assert outcome in state.unreported
        case Fetch(wanted=tried) | Check(wanted=tried) | Prove(candidate=tried):
            assert state.candidate == tried
    return serving


def _is_sound(state: State) -> None:
    for pointer in (state.serving, state.current, state.last_good, state.candidate):
        assert pointer is None or pointer.digest not in state.denied
    assert state.current is None or state.candidate != state.current
    assert len(state.denied) <= MAX_DENIED
    assert state.current is None or state.floor >= state.current.counter


def test_every_kind_of_event_is_in_the_random_stories():
    built = {Wanted, Fetched, FetchFailed, Checked, CheckFailed, Proved, Failed, Broken}
    assert built | {Reported, Stopping} == set(SlotEvent.__args__)


def checking(start: State = RUNNING, wanted: Assigned = NEW) -> State:
    return after(start, *story_of(wanted)[:2])


def test_a_child_that_was_killed_is_tried_again_and_denies_only_after_its_tries():
    killed = CheckFailed(NEW.digest, BAD, code="agent", undecided=True)
    state = RUNNING
    for _ in range(MAX_ATTEMPTS - 1):
        state = after(checking(state), killed)
        outcome = state.unreported[-1]
        assert (outcome.code, outcome.retryable, state.denied) == ("inconclusive", True, ())
        assert (state.current, state.phase) == (OLD, Idle())
        state = settled(state)
    state = after(checking(state), killed)
    assert (state.denied, state.unreported[-1].retryable) == ((NEW.digest,), False)
    assert step(settled(state), Wanted(NEW))[1] == ()
