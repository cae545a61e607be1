"""The life of one slot: from a wish to a release that proved itself, and nothing else.

    idle ──Wanted──▶ fetching ──Fetched──▶ checking ──Checked──▶ probing ──Proved──▶ idle (new)
     ▲                  │                     │                     │
     └────FetchFailed───┴─────CheckFailed─────┴───────Failed────────┘ (old)

Rule 1: every transition is decided here, by ``step`` and ``resume``, and neither does I/O.
Rule 2: the caller saves the new state before it performs an effect, so an effect may be
        repeated after a power cut: every effect is safe to repeat.
Rule 3: ``current`` changes in one step, after the candidate proved itself. Until then the
        old release stays whole, runs beside the candidate, and is what a cut returns to.
Rule 4: a release that failed its check or its probation is denied for good. One that may
        not be believed is refused as long as the wish for it stands. What may pass by
        itself (no network, a full disk) is retryable; what may (too few windows, a child
        that was killed) is, ``MAX_ATTEMPTS`` times.
Rule 5: a release that stops the agent is tried ``MAX_ATTEMPTS`` times: the counter is in
        the state, and ``resume`` raises it. A clean stop (``Stopping``) does not count.
Rule 6: a wish for ``last_good`` is checked but not put on probation again: it already
        proved itself here, and the release it would be compared with is being withdrawn.
Rule 7: an empty wish ends a try and leaves what runs running; a slot is never emptied.
"""

from typing import assert_never

from msgspec.structs import replace

from agent.contract.messages import Assigned, Finding
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
from agent.update.slot import (
    DENIED,
    MAX_DENIED,
    MAX_UNREPORTED,
    REFUSED,
    Checking,
    Fetching,
    Idle,
    Outcome,
    Probing,
    State,
    Wish,
    derived_id,
    reasons,
)

__all__ = [
    "MAX_ATTEMPTS",
    "Broken",
    "Check",
    "CheckFailed",
    "Checked",
    "Effect",
    "Failed",
    "Fetch",
    "FetchFailed",
    "Fetched",
    "Forget",
    "Outcome",
    "Prove",
    "Proved",
    "Report",
    "Reported",
    "Serve",
    "SlotEvent",
    "State",
    "Step",
    "Stopping",
    "Wanted",
    "resume",
    "step",
]

MAX_ATTEMPTS = 3
_MAX_TEXT = 500

Step = tuple[State, tuple[Effect, ...]]


def step(state: State, event: SlotEvent) -> Step:
    """Return the state after an event, and what is to be done once that state is saved.

    Late or repeated news returns the same state and no effect.
    """
    match event:
        case Wanted(assigned=wanted):
            return _want(state, wanted) if wanted is not None else _abandon(state, None)
        case Broken():
            return _break(state, event)
        case Reported(event_id=told):
            return _settle(state, told), ()
        case Stopping():
            return _stop(state), ()
        case Fetched() | FetchFailed() | Checked() | CheckFailed() | Proved() | Failed():
            tried = state.candidate
            late = tried is None or tried.digest != event.digest
            return (state, ()) if late else _advance(state, event)
        case _:
            assert_never(event)


def resume(state: State) -> Step:
    """Return the state after a start of the agent, and the effects to repeat.

    The returned state must be saved before its effects are performed, because it counts
    the attempt that begins now.
    """
    after, todo = _repeat(state)
    pending = tuple(Report(outcome) for outcome in state.unreported)
    rest = tuple(effect for effect in todo if not isinstance(effect, Serve))
    return after, (Serve(after.serving, after.beside), *pending, *rest)


def _repeat(state: State) -> Step:
    match state.phase:
        case Idle():
            return state, (Forget(state.kept),)
        case Fetching(wanted=wanted):
            return state, (Fetch(wanted),)
        case Checking(wanted=wanted, attempts=n) | Probing(wanted=wanted, attempts=n) if (
            n >= MAX_ATTEMPTS
        ):
            why = f"the agent stopped {n} times while {state.phase_name} {_short(wanted.digest)}"
            return _fail(state, wanted, code="attempts", why=why, findings=())
        case Checking(wanted=wanted) as phase:
            counted = replace(phase, attempts=phase.attempts + 1)
            return _changed(state, phase=counted), (Check(wanted),)
        case Probing(wanted=wanted) as phase:
            counted_again = replace(phase, attempts=phase.attempts + 1)
            after = _changed(state, phase=counted_again)
            return after, (Prove(wanted, state.current, phase.checked),)
        case _:
            assert_never(state.phase)


def _advance(
    state: State, event: Fetched | FetchFailed | Checked | CheckFailed | Proved | Failed
) -> Step:
    match state.phase, event:
        case Fetching(wanted=wanted), Fetched():
            return _changed(state, phase=Checking(wanted=wanted)), (Check(wanted),)
        case Fetching(wanted=wanted), FetchFailed(code=code, why=why, retryable=retryable):
            return _fail(state, wanted, code=code, why=why, findings=(), retryable=retryable)
        case Checking(wanted=wanted), Checked(findings=found):
            if state.last_good is not None and state.last_good.digest == wanted.digest:
                return _commit(state, wanted, (*found, _proved_before(wanted)))
            after = _changed(state, phase=Probing(wanted=wanted, checked=found))
            serve = Serve(wanted, state.current)
            return after, (serve, Prove(wanted, state.current, found))
        case Checking(wanted=wanted), CheckFailed(findings=found, undecided=True):
            return _judge_failed(state, wanted, found, undecided=True)
        case Checking(wanted=wanted), CheckFailed(findings=found, code=code, retryable=retryable):
            why = reasons(found)
            return _fail(state, wanted, code=code, why=why, findings=found, retryable=retryable)
        case Probing(wanted=wanted), Proved(findings=found):
            return _commit(state, wanted, found)
        case Probing(wanted=wanted), Failed(findings=found, retryable=undecided):
            return _judge_failed(state, wanted, found, undecided=undecided)
        case _:
            return state, ()


def _want(state: State, wanted: Assigned) -> Step:
    known = state.wish is not None and state.wish.digest == wanted.digest
    wish = state.wish if state.wish and known else Wish(digest=wanted.digest)
    if wish.answered:
        return _abandon(state, wish)
    if wanted.digest in state.denied:
        why = f"release {_short(wanted.digest)} failed on this device and is not tried again"
        outcome = _outcome(state, wanted, "rejected", code=DENIED, why=why)
        after, effects = _abandon(state, replace(wish, told=_told(wish, DENIED)), outcome)
        return after, (*effects, Report(outcome))
    if state.candidate is not None and state.candidate.digest == wanted.digest:
        return state, ()
    if state.current is not None and state.current.digest == wanted.digest:
        return _abandon(state, wish)
    after = _changed(state, phase=Fetching(wanted=wanted), wish=wish)
    return after, (*_back_to_current(state), Forget(after.kept), Fetch(wanted))


def _abandon(state: State, wish: Wish | None, told: Outcome | None = None) -> Step:
    if isinstance(state.phase, Idle) and wish == state.wish and told is None:
        return state, ()
    unreported = _queued(state, told) if told else state.unreported
    after = _changed(state, phase=Idle(), wish=wish, unreported=unreported)
    forget = () if isinstance(state.phase, Idle) else (Forget(after.kept),)
    return after, (*_back_to_current(state), *forget)


def _commit(state: State, wanted: Assigned, findings: tuple[Finding, ...]) -> Step:
    returning = state.last_good is not None and state.last_good.digest == wanted.digest
    outcome = _outcome(state, wanted, "succeeded", findings=findings)
    after = _changed(
        state,
        current=wanted,
        # a release that was withdrawn is never gone back to by itself
        last_good=None if returning else state.current,
        phase=Idle(),
        floor=max(state.floor, wanted.counter),
        unreported=_queued(state, outcome),
    )
    return after, (Serve(wanted), Report(outcome), Forget(after.kept))


def _judge_failed(
    state: State, wanted: Assigned, findings: tuple[Finding, ...], *, undecided: bool
) -> Step:
    wish = state.wish or Wish(digest=wanted.digest)
    if undecided and wish.undecided + 1 < MAX_ATTEMPTS:
        counted = replace(wish, undecided=wish.undecided + 1, told=())
        state = replace(state, wish=counted)
        code, retryable = "inconclusive", True
    else:
        code, retryable = "inconclusive" if undecided else "probation", False
    why = reasons(findings)
    return _fail(state, wanted, code=code, why=why, findings=findings, retryable=retryable)


def _fail(
    state: State,
    wanted: Assigned,
    *,
    code: str,
    why: str,
    findings: tuple[Finding, ...],
    retryable: bool = False,
) -> Step:
    wish = state.wish or Wish(digest=wanted.digest)
    silent = retryable and code in wish.told
    word = _word(state, retryable=retryable)
    outcome = _outcome(
        state, wanted, word, code=code, why=why, findings=findings, retryable=retryable
    )
    refused = isinstance(state.phase, Fetching)
    good, denied = state.last_good, state.denied
    if not retryable and not refused:
        denied = (*(d for d in denied if d != wanted.digest), wanted.digest)[-MAX_DENIED:]
        good = None if good is None or good.digest == wanted.digest else good
    final = REFUSED if refused else DENIED
    after = _changed(
        state,
        last_good=good,
        phase=Idle(),
        wish=replace(wish, told=_told(wish, code if retryable else final)),
        denied=denied,
        unreported=state.unreported if silent else _queued(state, outcome),
    )
    report = () if silent else (Report(outcome),)
    return after, (*_back_to_current(state), *report, Forget(after.kept))


def _break(state: State, event: Broken) -> Step:
    lost, back = state.current, state.last_good
    if lost is None or lost.digest != event.digest or isinstance(state.phase, Probing):
        return state, ()
    word = "failed_rolled_back" if back else "failed_not_rolled_back"
    outcome = _outcome(state, lost, word, code=event.code, why=event.why, retryable=True)
    phase = Idle() if back is not None and state.candidate == back else state.phase
    told = _queued(state, outcome)
    after = _changed(state, current=back, last_good=None, phase=phase, unreported=told)
    return after, (Serve(back), Report(outcome))


def _settle(state: State, event_id: str) -> State:
    left = tuple(o for o in state.unreported if o.event_id != event_id)
    return state if left == state.unreported else _changed(state, unreported=left)


def _stop(state: State) -> State:
    match state.phase:
        case Checking() | Probing() as phase:
            return _changed(state, phase=replace(phase, attempts=max(phase.attempts - 1, 0)))
        case Idle() | Fetching():
            return state
        case _:
            assert_never(state.phase)


def _word(state: State, *, retryable: bool) -> str:
    match state.phase:
        case Probing() if state.current is not None:
            return "failed_rolled_back"
        case Fetching() if not retryable:
            return "rejected"
        case _:
            return "failed_no_change"


def _outcome(
    state: State,
    release: Assigned,
    word: str,
    *,
    code: str = "",
    why: str = "",
    findings: tuple[Finding, ...] = (),
    retryable: bool = False,
) -> Outcome:
    return Outcome(
        event_id=derived_id(release.digest, str(state.revision + 1)),
        release=release.digest,
        outcome=word,
        code=code,
        why=why[:_MAX_TEXT],
        retryable=retryable,
        findings=findings,
    )


def _queued(state: State, outcome: Outcome) -> tuple[Outcome, ...]:
    return (*state.unreported, outcome)[-MAX_UNREPORTED:]


def _back_to_current(state: State) -> tuple[Serve, ...]:
    return (Serve(state.current),) if isinstance(state.phase, Probing) else ()


def _changed(state: State, **members: object) -> State:
    return replace(state, revision=state.revision + 1, **members)


def _told(wish: Wish, code: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys((*wish.told, code)))[-MAX_UNREPORTED:]


def _proved_before(wanted: Assigned) -> Finding:
    why = f"release {_short(wanted.digest)} proved itself on this device before"
    return Finding(check="proved-before", held=True, why=why)


def _short(digest: str) -> str:
    return digest[:16]
