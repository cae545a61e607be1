"""The evidence of a probation: what was measured in a child, and what live windows show.

Rule 1: the judge is ``update.probation``; here its evidence is gathered, at intervals.
Rule 2: one child measures at a time, and what it found about a digest is kept in memory.
Rule 3: evidence has no place for withheld windows; they are only reported.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

from agent.config import UpdateConfig
from agent.daemon.agenda import Agenda
from agent.daemon.host import event, log
from agent.errors import AgentError
from agent.infer.comparison import Comparison, Side
from agent.update import machine
from agent.update.probation import Evidence, Labelled, Limits, Measured, Verdict, judge
from agent.worker.jobs import CheckAnswer, Labels

Learned = Callable[[CheckAnswer | AgentError], None]
MAX_REMEMBERED = 16


class Measures:
    """What children found out about releases; one child at a time."""

    def __init__(self, start: Callable[[str], None]) -> None:
        """``start`` begins a child for a digest; its answer comes by ``answered``."""
        self._start = start
        self._known: dict[str, CheckAnswer] = {}
        self._waiting: dict[str, list[Learned]] = {}
        self._busy: str | None = None

    def ask(self, digest: str, then: Learned, *, anew: bool = False) -> None:
        """Call ``then`` with what is known, or is found out, about a release."""
        if anew:
            self._known.pop(digest, None)
        known = self._known.get(digest)
        if known is not None:
            then(known)
            return
        self._waiting.setdefault(digest, []).append(then)
        self._next()

    def known(self, digest: str) -> CheckAnswer | None:
        """Return what was found out about a release, if anything."""
        return self._known.get(digest)

    def answered(self, digest: str, answer: CheckAnswer | AgentError) -> None:
        """Take the answer of the child, and start the next one."""
        self._busy = None
        if isinstance(answer, CheckAnswer):
            self._known[digest] = answer
            while len(self._known) > MAX_REMEMBERED:
                del self._known[next(iter(self._known))]
        waiting = self._waiting.pop(digest, [])
        self._next()
        refused: AgentError | None = None
        for then in waiting:
            try:
                then(answer)
            except AgentError as why:  # a full disk at one of them must not cost the others
                refused = why
        if refused is not None:
            raise refused

    def _next(self) -> None:
        if self._busy is None and self._waiting:
            self._busy = next(iter(self._waiting))
            self._start(self._busy)


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What this room needs of the others.

    Attributes:
        comparison: What a slot's windows show so far.
        conclude: Tells the machine of a slot how its probation ended.
        monotonic: Seconds.
        duty: One in so many windows is answered now.

    """

    comparison: Callable[[str], Comparison | None]
    conclude: Callable[[str, machine.Proved | machine.Failed], None]
    monotonic: Callable[[], float]
    duty: Callable[[], int] = lambda: 1


class Judging:
    """The probations under way, at most one in each slot."""

    def __init__(
        self, config: UpdateConfig, measures: Measures, agenda: Agenda, around: Surroundings
    ) -> None:
        self._limits = limits_of(config)
        self._probation_seconds = config.probation_seconds
        self._look_seconds = config.look_seconds
        self._measures = measures
        self._agenda = agenda
        self._around = around
        self._trials: dict[str, tuple[machine.Prove, float]] = {}

    def begin(self, slot: str, prove: machine.Prove) -> None:
        """Begin a probation; its end comes by ``conclude``."""
        self._trials[slot] = (prove, self._around.monotonic() + self._probation_seconds)
        self._measures.ask(prove.candidate.digest, lambda _: None)
        if prove.against is not None:
            new, old = (self._measures.known(a.digest) for a in (prove.candidate, prove.against))
            anew = _relabelled(new, old) or _labelled_since(new, old)
            self._measures.ask(prove.against.digest, lambda _: None, anew=anew)
        self._later(slot)

    def stop(self, slot: str) -> None:
        """Forget the probation of a slot."""
        self._trials.pop(slot, None)
        self._agenda.cancel(f"judge {slot}")

    def look(self, slot: str) -> None:
        """Judge what there is; conclude, or look again later."""
        trial = self._trials.get(slot)
        if trial is None:
            return
        prove, deadline = trial
        # a hot device answers fewer windows: a probation lasts for as many as on a cool one
        deadline += self._look_seconds * (1 - 1 / self._around.duty())
        self._trials[slot] = prove, deadline
        self._later(slot)  # an error below must not end the looking
        expired = self._around.monotonic() >= deadline
        evidence = self._evidence(slot, prove, expired=expired)
        if evidence is None:
            return
        verdict, findings = judge(evidence, self._limits)
        if verdict is Verdict.WAIT:
            return
        log.info(
            event(
                "judged",
                slot=slot,
                release=prove.candidate.digest[:16],
                verdict=verdict,
                windows=evidence.windows,
                why="; ".join(f.why for f in findings if not f.held) or "all checks hold",
            )
        )
        self.stop(slot)
        digest = prove.candidate.digest
        if verdict is Verdict.PASS:
            self._around.conclude(slot, machine.Proved(digest, findings))
        else:
            undecided = verdict is Verdict.INCONCLUSIVE
            self._around.conclude(slot, machine.Failed(digest, findings, retryable=undecided))

    def _later(self, slot: str) -> None:
        later = self._around.monotonic() + self._look_seconds
        self._agenda.at(f"judge {slot}", later, lambda: self.look(slot))

    def _evidence(self, slot: str, prove: machine.Prove, *, expired: bool) -> Evidence | None:
        shown = self._around.comparison(slot)
        if shown is not None and shown.serving.release != prove.candidate.digest:
            shown = None
        alone = shown is not None and prove.against is not None and shown.beside is None
        new = self._measures.known(prove.candidate.digest)
        old = self._measures.known(prove.against.digest) if prove.against else None
        unmeasured = new is None or (prove.against is not None and old is None)
        if unmeasured and not expired and not alone:
            return None
        decide, relabelled = None, _relabelled(new, old)
        if new and old and new.labels and old.labels and not relabelled:
            decide = Labelled.pair(*_on_the_same(new.labels, old.labels))
        return Evidence(
            golden=prove.checked,
            windows=shown.windows if shown else 0,
            agreement=shown.agreement if shown else None,
            candidate=measured(shown.serving if shown else None, new),
            running=measured(shown.beside if shown else None, old) if prove.against else None,
            decide=decide,
            expired=expired,
            unlike=_unlike(shown, new, old),
            missing=_missing(alone=alone, unmeasured=unmeasured, relabelled=relabelled),
        )


def _relabelled(new: CheckAnswer | None, old: CheckAnswer | None) -> bool:
    """Return whether the labelled windows changed between the two measurements."""
    if not (new and old and new.labels and old.labels):
        return False
    return len(new.labels.decide) != len(old.labels.decide)


def _labelled_since(new: CheckAnswer | None, old: CheckAnswer | None) -> bool:
    """Return whether people labelled windows between the two measurements."""
    if not (new and old and new.labels and old.labels):
        return False
    return new.labels.kept.keys() != old.labels.kept.keys()


def _on_the_same(new: Labels, old: Labels) -> tuple[tuple[bool, ...], tuple[bool, ...]]:
    """Return the answers of both to the windows that both were measured on, in one order."""
    both = [name for name in new.kept if name in old.kept]
    return (
        (*new.decide, *(new.kept[name] for name in both)),
        (*old.decide, *(old.kept[name] for name in both)),
    )


def _unlike(shown: Comparison | None, new: CheckAnswer | None, old: CheckAnswer | None) -> str:
    if shown is not None and shown.why_not:
        return shown.why_not
    if new and old and (new.labels is None) != (old.labels is None):
        return "only one of the two releases answers the labelled windows"
    return ""


def _missing(*, alone: bool, unmeasured: bool, relabelled: bool) -> str:
    if alone:
        return "the running release could not be loaded beside the candidate to compare them"
    if unmeasured:
        return "a worker could not measure both releases, so they cannot be compared"
    if relabelled:
        return "the labelled windows changed between the measurements of the two releases"
    return ""


def measured(side: Side | None, answer: CheckAnswer | None) -> Measured:
    """Return one release's figures, from live windows and from its child."""
    figures = Measured(rss_bytes=answer.rss_bytes if answer else None)
    if side is None:
        return figures
    return replace(
        figures,
        confidence=side.confidence,
        latency_p50_us=side.latency_p50_us,
        latency_p95_us=side.latency_p95_us,
        refused=side.refused,
        failed=side.failed,
    )


def limits_of(config: UpdateConfig) -> Limits:
    """Return the judge's limits as the operator set them."""
    return Limits(
        min_windows=config.min_windows,
        max_latency_ratio=config.max_latency_ratio,
        latency_slack_us=config.latency_slack_us,
        max_rss_growth_bytes=config.max_rss_growth_bytes,
        min_agreement=config.min_agreement,
        min_agreement_windows=config.min_agreement_windows,
        max_confidence_drop=config.max_confidence_drop,
        max_decide_drop=config.max_decide_drop,
        certain_decide_drop=config.certain_decide_drop,
        min_labelled=config.min_labelled,
        significance=config.significance,
    )
