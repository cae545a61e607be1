"""What people say of predictions: counted for the release, kept to learn from.

Rule 1: without ``[feedback]`` nothing is remembered, and whoever labels is told so.
Rule 2: a label counts once, for the release that predicted, in the report after it came.
Rule 3: a window that cannot be kept still counts; why it was not kept is in the answer, and
        where the disk is at fault an alarm is told.
Rule 4: any thread may label; the report is made by the loop's.
"""

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from msgspec.structs import replace

from agent.config_inference import FeedbackConfig
from agent.contract.manifest import Release
from agent.contract.telemetry import Window
from agent.daemon.host import event, log
from agent.disk import Disk
from agent.errors import AgentError, StoreError, UnknownModelError
from agent.infer.labelling import (
    Opinion,
    Taken,
    read_feedback,
    status_of,
    write_refusal,
    write_results,
)
from agent.infer.loaded import Answer
from agent.learn.samples import Split
from agent.refusals import NoFeedbackError

if TYPE_CHECKING:
    from agent.infer.recall import Attached, Recall
    from agent.learn.keeping import KeptWindows
    from agent.learn.kept import Kept

NOT_FINITE = "its input is not finite"
ON_A_BORDER = "it shares samples with windows of another split"
_DAY_MS = 86_400_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """Labels of one release: how many came, and how many bore it out."""

    labelled: int = 0
    right: int = 0


class Feedback:
    """The labels of this device.

    Raises:
        NewerStateError: A newer version of the agent kept windows here.
        StoreError: They cannot be read.

    """

    def __init__(
        self,
        config: FeedbackConfig | None,
        slots: Iterable[str],
        disk: Disk,
        *,
        wall_ms: Callable[[], int],
    ) -> None:
        self._wall_ms = wall_ms
        self._slots = frozenset(slots)
        self._recalls: dict[str, Recall] = {}
        self._kept: KeptWindows | None = None
        self._lock = threading.Lock()
        self._labelled: Counter[tuple[str, str]] = Counter()
        self._right: Counter[tuple[str, str]] = Counter()
        self._refused = 0
        self._trouble: StoreError | None = None
        if config is None:
            return
        # imported only where [feedback] is set
        from agent.infer import recall  # noqa: PLC0415
        from agent.learn import keeping  # noqa: PLC0415

        if config.keep_windows:
            self._kept = keeping.KeptWindows(
                disk,
                quota_bytes=config.quota_bytes,
                retention_ms=config.retention_days * _DAY_MS,
            )
        for slot in self._slots:
            self._recalls[slot] = recall.Recall(
                most=config.recent,
                most_bytes=config.recent_bytes,
                with_windows=config.keep_windows,
                wall_ms=wall_ms,
            )

    def remembering(self, slot: str) -> Callable[[Answer], None] | None:
        """Return what remembers the answers of a slot; None where nothing is to be."""
        recall = self._recalls.get(slot)
        return recall.remember if recall else None

    def introduce(self, slot: str, digest: str, release: Release) -> None:
        """Learn what a release can say, before it answers."""
        recall = self._recalls.get(slot)
        if recall is not None:
            recall.introduce(digest, release)

    def label(
        self,
        slot: str,
        prediction: str,
        label: str | None = None,
        *,
        place: int | None = None,
        row: int = 0,
    ) -> Taken:
        """Attach a label to one answer, by the name of its class or by its number.

        Raises:
            NoFeedbackError: ``[feedback]`` is not set.
            UnknownModelError: No such slot.
            UnknownPredictionError: No such prediction is remembered.
            LabelRefusedError: The release knows no such class, or the answer no such row.
            LabelConflictError: The answer bears another label.

        """
        opinion = Opinion(id=prediction, label=label, place=place, row=row)
        result = self._attach(slot, (opinion,))[0]
        if isinstance(result, AgentError):
            raise result
        return result

    def take(self, slot: str, body: bytes) -> tuple[int, bytes]:
        """Take what HTTP or MQTT brought; returns the HTTP status and the answer's JSON."""
        try:
            said = read_feedback(body)
            results = self._attach(slot, said.opinions)
        except AgentError as why:
            self._refuse(why)
            return status_of(why), write_refusal(why)
        worst = next((r for r in results if isinstance(r, AgentError)), None)
        if worst is not None and not said.several:
            return status_of(worst), write_refusal(worst)
        told = tuple(
            Taken(id=opinion.id, row=opinion.row, error=str(result), code=result.code)
            if isinstance(result, AgentError)
            else result
            for opinion, result in zip(said.opinions, results, strict=True)
        )
        return status_of(worst), write_results(told, worst, several=said.several)

    def close_tallies(self, slot: str) -> dict[str, Tally]:
        """Return the labels of a slot since the last call, by release."""
        with self._lock:
            keys = [key for key in self._labelled if key[0] == slot]
            return {
                key[1]: Tally(labelled=self._labelled.pop(key), right=self._right.pop(key, 0))
                for key in keys
            }

    def onto(self, windows: Sequence[Window], number: Callable[[str], int]) -> tuple[Window, ...]:
        """Return windows with the labels that came since the last call.

        A release that was replaced since gets a window of its own, without any inference;
        ``number`` returns the number of the next window of a slot.
        """
        found = {slot: self.close_tallies(slot) for slot in sorted(self._slots)}
        told: list[Window] = []
        for window in windows:
            tally = found.get(window.slot, {}).pop(window.release, Tally())
            told.append(replace(window, labelled=tally.labelled, right=tally.right))
        now_ms = self._wall_ms()
        for slot, tallies in found.items():
            told += [
                Window(
                    slot=slot,
                    release=release,
                    number=number(slot),
                    opened_ms=now_ms,
                    closed_ms=now_ms,
                    labelled=tally.labelled,
                    right=tally.right,
                )
                for release, tally in tallies.items()
            ]
        return tuple(told)

    def close_refused(self) -> int:
        """Return how many labels were refused since the last call."""
        with self._lock:
            refused, self._refused = self._refused, 0
        return refused

    def counts(self, slot: str | None) -> dict[Split, int]:
        """Return how many kept windows of a slot there are, by split."""
        if self._kept is None or slot is None:
            return dict.fromkeys(Split, 0)
        return self._kept.counts(slot)

    def tend(self) -> StoreError | None:
        """Remove kept windows that are too old; returns what the disk did wrong since last."""
        if self._kept is not None:
            try:
                self._kept.expire(self._wall_ms())
            except StoreError as why:
                return why
        with self._lock:
            trouble, self._trouble = self._trouble, None
        return trouble

    def _attach(self, slot: str, opinions: Sequence[Opinion]) -> list[Taken | AgentError]:
        if slot not in self._slots:
            known = ", ".join(sorted(self._slots)) or "none"
            raise UnknownModelError(f"there is no model {slot[:80]!r} here; there is {known}")
        recall = self._recalls.get(slot)
        if recall is None:
            raise NoFeedbackError(
                "this device remembers no predictions: set [feedback] in its configuration"
            )
        attached: list[Attached | AgentError] = []
        for opinion in opinions:
            try:
                attached.append(
                    recall.attach(
                        opinion.id, label=opinion.label, place=opinion.place, row=opinion.row
                    )
                )
            except AgentError as why:
                self._refuse(why)
                attached.append(why)
        good = [a for a in attached if not isinstance(a, AgentError)]
        self._count(slot, good)
        kept = self._keep(slot, good)
        return [a if isinstance(a, AgentError) else _taken(a, kept) for a in attached]

    def _count(self, slot: str, attached: "Iterable[Attached]") -> None:
        with self._lock:
            for one in attached:
                if not one.again:
                    self._labelled[slot, one.release] += 1
                    self._right[slot, one.release] += one.right

    def _keep(self, slot: str, attached: "Iterable[Attached]") -> dict[tuple[str, int], str]:
        """Keep what can be kept, in one write; returns why not, "" for what is."""
        found: dict[tuple[str, int], str] = {}
        windows: list[Kept] = []
        for one in attached:
            if one.again:
                continue
            window = _window(slot, one)
            if isinstance(window, str):
                found[one.id, one.row] = window
            else:
                found[one.id, one.row] = ""
                windows.append(window)
        if self._kept is None or not windows:
            return found
        try:
            self._kept.keep(windows, self._wall_ms())
        except StoreError as why:
            log.warning(event("labels-not-kept", code=why.code, why=why, windows=len(windows)))
            with self._lock:
                self._trouble = why
            found |= {(w.id, w.row): str(why) for w in windows}
        return found

    def _refuse(self, why: AgentError) -> None:
        with self._lock:
            self._refused += 1
            refused = self._refused
        if refused.bit_count() == 1:  # 1, 2, 4, …: a wrong client fills no disk
            log.warning(event("label-refused", code=why.code, why=why, times=refused))


def _window(slot: str, one: "Attached") -> "Kept | str":
    """Return a labelled window as it is kept, or why it is not, "" where none is."""
    from agent.learn.kept import Kept, split_of  # noqa: PLC0415 -- as above

    window = one.window
    if window is None:
        return one.why_not
    if not np.isfinite(window).all():
        return NOT_FINITE
    split = split_of(slot, one.at_ms, one.span_ms)
    if split is None:
        return ON_A_BORDER
    channels, samples = window.shape
    return Kept(
        slot=slot,
        id=one.id,
        row=one.row,
        at_ms=one.at_ms,
        release=one.release,
        label=one.label,
        split=split,
        channels=channels,
        samples=samples,
        x=window.astype("<f4").tobytes(),
    )


def _taken(one: "Attached", kept: dict[tuple[str, int], str]) -> Taken:
    why_not = "" if one.again else kept[one.id, one.row]
    return Taken(
        id=one.id,
        row=one.row,
        release=one.release,
        label=one.label,
        predicted=one.predicted,
        right=one.right,
        again=one.again,
        kept=one.window is not None and not why_not,
        why_not_kept=why_not,
    )
