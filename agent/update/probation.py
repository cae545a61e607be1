"""Whether a candidate may stay: a judgement over evidence, with its reasons.

Rule 1: the judge is pure; gathering evidence and waiting are the daemon's.
Rule 2: every check that was possible leaves one finding, a sentence with its figures.
Rule 3: a candidate is compared with the running release on the *same* windows. Where
        none runs, or the two cannot be compared by their nature, a finding says so; where
        the running release could not be run or measured, nothing passes: ``INCONCLUSIVE``.
Rule 4: withheld windows decide nothing; the evidence has no place for them.
Rule 5: what more windows cannot mend (golden vectors, accuracy, an inference that fails)
        is a failure at once; behaviour is compared from the minimum of windows on, which
        a pass needs too; a deadline without them is ``INCONCLUSIVE`` (the machine's
        retryable ``Failed``): a silent sensor says nothing about a model.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from math import comb

from agent.contract.messages import Finding, Quality

_MIB = 1024 * 1024


class Verdict(StrEnum):
    """What the judge says."""

    PASS = "pass"  # noqa: S105 - a verdict, not a password
    FAIL = "fail"
    WAIT = "wait"
    INCONCLUSIVE = "inconclusive"


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """How one release behaved on the windows of this probation.

    Attributes:
        confidence: Mean of the largest class probability, 0 to 1; None for other models.
        latency_p50_us, latency_p95_us: Of one inference, microseconds; None before the first.
        rss_bytes: Resident memory of a process with this release loaded; None unmeasured.
        refused: Windows that its input check refused.
        failed: Windows on which it raised.

    """

    confidence: float | None = None
    latency_p50_us: float | None = None
    latency_p95_us: float | None = None
    rss_bytes: int | None = None
    refused: int = 0
    failed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Labelled:
    """Both releases on the device's labelled *decide* windows, window by window.

    Attributes:
        candidate: Right answers of the candidate.
        running: Right answers of the running release, on the same windows.
        lost: Windows that only the running release has right.
        won: Windows that only the candidate has right.

    """

    candidate: Quality
    running: Quality
    lost: int
    won: int

    @classmethod
    def pair(cls, candidate_right: Sequence[bool], running_right: Sequence[bool]) -> "Labelled":
        """Count from the verdicts per window, in the same order of windows.

        Raises:
            ValueError: The two are not over the same windows.

        """
        both = list(zip(candidate_right, running_right, strict=True))
        return cls(
            candidate=Quality(right=sum(bool(new) for new, _ in both), windows=len(both)),
            running=Quality(right=sum(bool(old) for _, old in both), windows=len(both)),
            lost=sum(bool(old and not new) for new, old in both),
            won=sum(bool(new and not old) for new, old in both),
        )

    @classmethod
    def unpaired(cls, candidate: Quality, running: Quality) -> "Labelled":
        """Take the discordant windows of independent errors: more than real pairs have.

        Raises:
            ValueError: The two are not over the same number of windows.

        """
        n = candidate.windows
        if n != running.windows:
            raise ValueError(f"{n} windows of the candidate, {running.windows} of the running")
        lost = round(running.right * (n - candidate.right) / n) if n else 0
        lost = max(lost, running.right - candidate.right)
        won = lost - (running.right - candidate.right)
        return cls(candidate=candidate, running=running, lost=lost, won=won)


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What a probation has gathered so far.

    Attributes:
        golden: Findings of the golden vectors (``Prove.checked``).
        windows: Live windows that the candidate has answered (and, where a release runs
            beside it, both have).
        agreement: Share of them on which both named the same class; None where not known.
        candidate: The candidate's figures.
        running: The running release's figures; None when nothing ran before.
        decide: Labelled decide windows; None when the device has none.
        expired: Whether the time for probation is over.
        unlike: Why the two cannot be compared by their nature (other classes or windows).
        missing: What kept the comparison from being made, and might not the next time.

    """

    golden: tuple[Finding, ...]
    windows: int
    agreement: float | None = None
    candidate: Measured
    running: Measured | None = None
    decide: Labelled | None = None
    expired: bool = False
    unlike: str = ""
    missing: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much worse than the running release a candidate may be.

    Attributes:
        min_windows: Live windows before a pass.
        max_latency_ratio: Candidate over running, for p50 and p95.
        latency_slack_us: Always allowed on top of p50, microseconds: small models jitter.
        tail_slack_us: The same for p95, which one other busy process can lift.
        min_tail_windows: Windows from which p95 is compared at all.
        max_rss_growth_bytes: More resident memory than with the running release.
        min_agreement: Share of windows with the same class.
        min_agreement_windows: Low agreement is not believed on fewer, unless time is over:
            neighbouring windows are alike, and on one stretch of them a better candidate
            may differ in all.
        max_confidence_drop: Running less candidate, mean confidence.
        max_decide_drop: Running less candidate, accuracy on decide windows, where the
            sign test finds it significant at ``significance``.
        certain_decide_drop: A drop above this fails whatever the test says.
        min_labelled: Decide windows below this number are reported, and decide nothing.
        significance: One-sided, of the exact sign test on discordant windows.

    """

    min_windows: int = 20
    max_latency_ratio: float = 2.0
    latency_slack_us: float = 500.0
    tail_slack_us: float = 5000.0
    min_tail_windows: int = 100
    max_rss_growth_bytes: int = 64 * 1024 * 1024
    min_agreement: float = 0.5
    min_agreement_windows: int = 100
    max_confidence_drop: float = 0.25
    max_decide_drop: float = 0.05
    certain_decide_drop: float = 0.2
    min_labelled: int = 20
    significance: float = 0.05


def judge(evidence: Evidence, limits: Limits) -> tuple[Verdict, tuple[Finding, ...]]:
    """Return the verdict, and one finding for each check, golden findings first.

    A drop of accuracy counts when it is over ``max_decide_drop`` *and* an exact one-sided
    sign test on the discordant windows (McNemar 1947, Psychometrika 12:153; exact form in
    Conover, Practical Nonparametric Statistics) finds it significant, so that one window
    decides nothing. Low agreement is not held against a candidate that is significantly
    better on the labelled windows: there it is the running release that errs.
    """
    running = None if evidence.missing else evidence.running
    enough = evidence.windows >= limits.min_windows and not _too_soon(evidence, limits)
    findings = [*evidence.golden, *_robustness(evidence.candidate, running)]
    if evidence.running is None:
        why = "no release ran before, so there was nothing to compare with"
        findings.append(Finding(check="comparison", held=True, why=why))
    elif evidence.unlike:
        findings.append(Finding(check="comparison", held=True, why=evidence.unlike[:500]))
    if evidence.decide is not None:
        findings.append(_accuracy(evidence.decide, limits))
    if running is not None and enough:
        findings += _behaviour(evidence, running, limits)
    sound = all(finding.held for finding in findings)
    if evidence.missing:
        findings.append(Finding(check="comparison", held=False, why=evidence.missing[:500]))
    why = f"{evidence.windows} live windows were seen, a pass needs {limits.min_windows}"
    given_up = evidence.expired and not enough
    sample = Finding(check="windows", held=not given_up, why=why)
    verdict = _verdict(
        sound=sound,
        enough=enough and not evidence.missing,
        given_up=given_up or bool(evidence.missing),
    )
    return verdict, (*findings, sample)


def _too_soon(evidence: Evidence, limits: Limits) -> bool:
    low = evidence.agreement is not None and evidence.agreement < limits.min_agreement
    return low and evidence.windows < limits.min_agreement_windows and not evidence.expired


def sign_test(more: int, fewer: int) -> float:
    """Return the chance of ``more`` or above among ``more + fewer`` fair coin tosses."""
    tosses = more + fewer
    return sum(comb(tosses, heads) for heads in range(more, tosses + 1)) / (1 << tosses)


def _verdict(*, sound: bool, enough: bool, given_up: bool) -> Verdict:
    if not sound:
        return Verdict.FAIL
    if enough:
        return Verdict.PASS
    return Verdict.INCONCLUSIVE if given_up else Verdict.WAIT


def _robustness(candidate: Measured, beside: Measured | None) -> Iterator[Finding]:
    failed, refused = candidate.failed, candidate.refused
    if beside is None:
        # a refused input speaks of the sensor as much as of the model: it is no window
        why = f"the candidate refused {refused} inputs and failed on {failed} windows"
        yield Finding(check="failures", held=failed == 0, why=why)
        return
    why = f"the candidate failed on {failed} windows, the running release on {beside.failed}"
    yield Finding(check="failures", held=failed <= beside.failed, why=why)
    why = f"the candidate refused {refused} inputs, the running release {beside.refused}"
    yield Finding(check="refusals", held=refused <= beside.refused, why=why)


def _accuracy(decide: Labelled, limits: Limits) -> Finding:
    new, old = decide.candidate, decide.running
    drop, chance = old.accuracy - new.accuracy, sign_test(decide.lost, decide.won)
    figures = (
        f"the candidate has {new.right} of {new.windows} labelled windows right and the "
        f"running release {old.right}"
    )
    if new.windows < limits.min_labelled:
        why = f"{figures}; fewer than {limits.min_labelled} decide nothing"
        return Finding(check="accuracy", held=True, why=why)
    significant = drop > limits.max_decide_drop and chance <= limits.significance
    held = not significant and drop <= limits.certain_decide_drop
    why = (
        f"{figures} (lost {decide.lost}, won {decide.won}, chance {chance:.2g}); at most "
        f"{limits.max_decide_drop:.0%} may be lost"
    )
    return Finding(check="accuracy", held=held, why=why)


def _behaviour(evidence: Evidence, running: Measured, limits: Limits) -> Iterator[Finding]:
    candidate = evidence.candidate
    if evidence.agreement is not None:
        yield _agreement(evidence.agreement, evidence, limits)
    if candidate.confidence is not None and running.confidence is not None:
        fell = running.confidence - candidate.confidence
        why = (
            f"mean confidence is {candidate.confidence:.2f} against {running.confidence:.2f}; "
            f"it may fall by {limits.max_confidence_drop:.2f}"
        )
        yield Finding(check="confidence", held=fell <= limits.max_confidence_drop, why=why)
    yield from _latency("p50", candidate.latency_p50_us, running.latency_p50_us, limits)
    if evidence.windows >= limits.min_tail_windows:
        yield from _latency("p95", candidate.latency_p95_us, running.latency_p95_us, limits)
    if candidate.rss_bytes is not None and running.rss_bytes is not None:
        grown = candidate.rss_bytes - running.rss_bytes
        why = (
            f"{candidate.rss_bytes / _MIB:.1f} MiB resident against "
            f"{running.rss_bytes / _MIB:.1f} MiB; it may grow by "
            f"{limits.max_rss_growth_bytes / _MIB:.1f} MiB"
        )
        yield Finding(check="memory", held=grown <= limits.max_rss_growth_bytes, why=why)


def _agreement(share: float, evidence: Evidence, limits: Limits) -> Finding:
    why = (
        f"both named the same class in {share:.0%} of {evidence.windows} windows; at least "
        f"{limits.min_agreement:.0%} must agree"
    )
    held = share >= limits.min_agreement
    decide = evidence.decide
    if not held and decide is not None and decide.candidate.windows >= limits.min_labelled:
        held = sign_test(decide.won, decide.lost) <= limits.significance
        why += ", but the candidate is better on labelled windows" if held else ""
    return Finding(check="agreement", held=held, why=why)


def _latency(
    rank: str, candidate_us: float | None, running_us: float | None, limits: Limits
) -> Iterator[Finding]:
    if candidate_us is None or running_us is None:
        return
    slack = limits.latency_slack_us if rank == "p50" else limits.tail_slack_us
    allowed = running_us * limits.max_latency_ratio + slack
    why = (
        f"{rank} latency is {candidate_us:.0f} us against {running_us:.0f} us; at most "
        f"{allowed:.0f} us are allowed"
    )
    yield Finding(check=f"latency-{rank}", held=candidate_us <= allowed, why=why)
