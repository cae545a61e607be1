"""What ``fieldfare-agent feedback`` shows and clears: the windows that people labelled.

Rule 1: only ``clear_labels`` changes anything; an agent that runs meanwhile goes on.
"""

from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

from msgspec import Struct

from agent.contract.plain_text import plain
from agent.disk import Disk
from agent.errors import ConfigError
from agent.learn.keeping import clear
from agent.learn.kept import scan
from agent.learn.samples import Split


class KeptLabel(Struct, frozen=True, kw_only=True):
    """Windows of one class in one slot, by split."""

    slot: str
    label: str
    train: int
    decide: int
    withheld: int


class KeptLabels(Struct, frozen=True, kw_only=True):
    """Everything that is kept.

    Attributes:
        unreadable_files: Segments that end in the middle of a window; what stands before
            is read.
        oldest_ms, newest_ms: When the first and the last window was predicted.

    """

    windows: int
    size_bytes: int
    files: int
    unreadable_files: int
    oldest_ms: int
    newest_ms: int
    labels: tuple[KeptLabel, ...]


def read_labels(state_dir: Path) -> KeptLabels:
    """Read what is kept in a state directory.

    Raises:
        ConfigError: There is no such directory.
        NewerStateError: A newer version of the agent kept it.
        StoreError: It cannot be read.

    """
    if not state_dir.is_dir():
        raise ConfigError(f"{state_dir} is no state directory of an agent")
    segments = [s for s in scan(Disk(state_dir)).values() if s.size_bytes]
    counts: Counter[tuple[str, str, Split]] = Counter()
    for segment in segments:
        counts.update(segment.counts)
    filled = [segment for segment in segments if segment.counts]
    return KeptLabels(
        windows=counts.total(),
        size_bytes=sum(segment.size_bytes for segment in segments),
        files=len(segments),
        unreadable_files=sum(not segment.whole for segment in segments),
        oldest_ms=min((segment.oldest_ms for segment in filled), default=0),
        newest_ms=max((segment.newest_ms for segment in filled), default=0),
        labels=tuple(
            KeptLabel(
                slot=slot,
                label=label,
                train=counts[slot, label, Split.TRAIN],
                decide=counts[slot, label, Split.DECIDE],
                withheld=counts[slot, label, Split.WITHHELD],
            )
            for slot, label in sorted({key[:2] for key in counts})
        ),
    )


def clear_labels(state_dir: Path) -> int:
    """Remove what is kept; returns how many windows there were.

    Raises:
        ConfigError: There is no such directory.
        NewerStateError: A newer version of the agent kept it; it is left untouched.
        StoreError: It could not be removed.

    """
    if not state_dir.is_dir():
        raise ConfigError(f"{state_dir} is no state directory of an agent")
    return clear(Disk(state_dir))


def describe_labels(kept: KeptLabels) -> str:
    """Return it for a person."""
    if not kept.windows:
        return "no labelled windows are kept"
    between = f"from {_moment(kept.oldest_ms)} to {_moment(kept.newest_ms)}"
    lines = [f"{kept.windows} labelled windows, {kept.size_bytes} bytes, {between}"]
    if kept.unreadable_files:
        lines.append(f"{kept.unreadable_files} of the files end in the middle of a window")
    lines += [
        f"  {one.slot}: {plain(one.label)}: {one.train} train, {one.decide} decide,"
        f" {one.withheld} withheld"
        for one in kept.labels
    ]
    return "\n".join(lines)


def _moment(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M UTC")
