"""Whether a candidate may stay: a judgement over evidence, with its reasons.

Rule 1: the judge is pure; gathering evidence and waiting are the daemon's.
Rule 2: every check that was possible leaves one finding, a sentence with its figures.
Rule 3: a candidate is compared with the running release on the *same* windows; where
        none runs, the comparisons are skipped and a finding says so.
Rule 4: withheld windows decide nothing; the evidence has no place for them.
Rule 5: a failure that more windows cannot mend is a failure at once; a pass waits for
        the minimum of windows; a deadline without them is ``INCONCLUSIVE``.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from agent.contract.messages import Finding, Quality


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
        """Count from the verdicts per window, in the same order of windows."""
        raise NotImplementedError

    @classmethod
    def unpaired(cls, candidate: Quality, running: Quality) -> "Labelled":
        """Take the discordant windows of independent errors: more than real pairs have."""
        raise NotImplementedError


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

    """

    golden: tuple[Finding, ...]
    windows: int
    agreement: float | None = None
    candidate: Measured
    running: Measured | None = None
    decide: Labelled | None = None
    expired: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much worse than the running release a candidate may be.

    Attributes:
        min_windows: Live windows before a pass.
        max_latency_ratio: Candidate over running, for p50 and p95.
        latency_slack_us: Always allowed on top, microseconds: small models jitter.
        max_rss_growth_bytes: More resident memory than with the running release.
        min_agreement: Share of windows with the same class.
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
    max_rss_growth_bytes: int = 64 * 1024 * 1024
    min_agreement: float = 0.5
    max_confidence_drop: float = 0.25
    max_decide_drop: float = 0.05
    certain_decide_drop: float = 0.2
    min_labelled: int = 20
    significance: float = 0.05


def judge(evidence: Evidence, limits: Limits) -> tuple[Verdict, tuple[Finding, ...]]:
    """Return the verdict, and one finding for each check, golden findings first."""
    raise NotImplementedError
