"""Windows that people labelled, kept on this device to learn from; they never leave it.

    labelled/00000001.seg   ``FFL`` version(1), then records

A record      length(u32 BE) CRC-32(u32 BE) body, body = MessagePack of ``Kept``

Rule 1: reading changes nothing, so that a child or ``feedback show`` may read beside.
Rule 2: a record counts when it is whole; what follows one that is not is not read.
Rule 3: a window has one split for ever. It follows from the minute of the window, so that
        windows which share samples never stand on two sides of a comparison.
Rule 4: labels are kept by name: another release may number its classes in another way.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Annotated, Final

import msgspec
import numpy as np

from agent.contract.limits import SCHEMA_VERSION
from agent.disk import Disk, read_record
from agent.errors import ConfigError, NewerStateError
from agent.learn.samples import LabelledWindows, Split

FOLDER: Final = "labelled"
HEADER: Final = b"FFL" + bytes([SCHEMA_VERSION])
MAX_RECORD_BYTES: Final = 16 * 1024 * 1024
BLOCK_MS: Final = 60_000
_BLOCK_SPANS: Final = 8
_TRAIN_BELOW, _DECIDE_BELOW = 60, 80  # of 100

NEWEST: Final[Mapping[Split, int]] = {Split.TRAIN: 5000, Split.DECIDE: 500, Split.WITHHELD: 500}
"""So many of each split are used at once, the newest: a check has a time limit."""


class Kept(msgspec.Struct, frozen=True, array_like=True):
    """One labelled window.

    Attributes:
        slot: Where it was predicted.
        id, row: Of the answer.
        at_ms: When it was predicted, ms since 1970.
        release: Manifest digest of the release that predicted.
        label: Name of its class.
        split: What it may be used for.
        channels, samples: Its shape.
        x: Little-endian float32, channel by channel.

    """

    slot: str
    id: str
    row: Annotated[int, msgspec.Meta(ge=0)]
    at_ms: Annotated[int, msgspec.Meta(ge=0)]
    release: str
    label: str
    split: Annotated[int, msgspec.Meta(ge=0, le=2)]
    channels: Annotated[int, msgspec.Meta(ge=1)]
    samples: Annotated[int, msgspec.Meta(ge=1)]
    x: bytes

    def __post_init__(self) -> None:
        if len(self.x) != 4 * self.channels * self.samples:
            raise ValueError("a labelled window has other bytes than its shape")


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """What stands in one file.

    Attributes:
        whole: Whether it ends with its last record; else its tail is torn or rotten.
        oldest_ms, newest_ms: Of its windows; 0 without any.
        counts: Windows by slot, label and split.

    """

    size_bytes: int
    whole: bool
    oldest_ms: int
    newest_ms: int
    counts: Counter[tuple[str, str, Split]]


def split_of(slot: str, at_ms: int, span_ms: int) -> Split | None:
    """Return what a window may be used for; None for one that lies on a border.

    A block is a minute, or eight windows where those are longer. Of 100 blocks about 60 are
    *train*, 20 *decide* and 20 *withheld*.

    >>> [split_of("motion", minute * 60_000 + 30_000, 2560).name for minute in (1, 2)]
    ['TRAIN', 'DECIDE']
    >>> split_of("motion", 2 * 60_000 + 1_000, 2560) is None
    True
    """
    block_ms = max(BLOCK_MS, _BLOCK_SPANS * span_ms)
    first, last = (_split_of_block(slot, ms // block_ms) for ms in (at_ms - span_ms, at_ms))
    return first if first is last else None


def _split_of_block(slot: str, block: int) -> Split:
    digest = blake2b(f"{slot} {block}".encode(), digest_size=4).digest()
    share = int.from_bytes(digest, "big") % 100
    if share < _TRAIN_BELOW:
        return Split.TRAIN
    return Split.DECIDE if share < _DECIDE_BELOW else Split.WITHHELD


def scan(disk: Disk) -> dict[int, Segment]:
    """Return what is kept, by the number of the segment; changes nothing.

    Raises:
        NewerStateError: A newer version of the agent wrote it.
        StoreError: It cannot be read.

    """
    return {number: read_segment(disk, number) for number in _numbers(disk)}


def load_kept(
    disk: Disk, slot: str, *, classes: Sequence[str], shape: tuple[int, int]
) -> tuple[LabelledWindows, tuple[str, ...]]:
    """Return the newest windows of a slot that a release can be measured on, and their names.

    Args:
        disk: The state directory.
        slot: Whose windows.
        classes: Of the release: a window whose label is none of them is left out.
        shape: (channels, samples) of its windows; others are left out.

    Returns:
        At most ``NEWEST`` windows of each split, oldest first, and for each a name that
        stays: the id of its prediction and the row.

    Raises:
        StoreError: They cannot be read.

    """
    places = {name: place for place, name in reversed(list(enumerate(classes)))}
    room = Counter(NEWEST)
    chosen: list[Kept] = []
    for number in reversed(_numbers(disk)):
        if not any(room.values()):
            break
        for window, _ in reversed(list(_placed(disk.read(segment_name(number)) or b""))):
            fits = (window.channels, window.samples) == shape and window.label in places
            if window.slot == slot and fits and room[Split(window.split)] > 0:
                room[Split(window.split)] -= 1
                chosen.append(window)
    chosen.reverse()
    found = LabelledWindows(
        x=np.stack([np.frombuffer(w.x, "<f4").reshape(shape) for w in chosen]).astype(np.float32)
        if chosen
        else np.zeros((0, *shape), np.float32),
        y=np.array([places[w.label] for w in chosen], np.int64),
        split=np.array([w.split for w in chosen], np.uint8),
    )
    return found, tuple(f"{w.id}/{w.row}" for w in chosen)


def join(file: LabelledWindows | None, kept: LabelledWindows) -> LabelledWindows:
    """Return the windows of the operator's file, then those that people labelled.

    Raises:
        ConfigError: They are of different shapes.

    """
    if file is None:
        return kept
    if not len(kept.x):
        return file
    if file.x.shape[1:] != kept.x.shape[1:]:
        raise ConfigError(
            f"learn.samples holds windows of shape {file.x.shape[1:]}, the release takes"
            f" {kept.x.shape[1:]}: make the file anew, or take it out of the configuration"
        )
    return LabelledWindows(
        x=np.concatenate([file.x, kept.x]),
        y=np.concatenate([file.y, kept.y]),
        split=np.concatenate([file.split, kept.split]),
    )


def segment_name(number: int) -> str:
    """Return the file name of a segment."""
    return f"{FOLDER}/{number:08d}.seg"


def read_segment(disk: Disk, number: int) -> Segment:
    """Return what stands in one file; one that is not there has nothing.

    Raises:
        NewerStateError: A newer version of the agent wrote it.
        StoreError: It cannot be read.

    """
    name = segment_name(number)
    content = disk.read(name) or b""
    if content[:3] == HEADER[:3] and len(content) > 3 and content[3] > SCHEMA_VERSION:  # noqa: PLR2004 - the version follows three letters
        raise NewerStateError(
            f"{name} has version {content[3]}; this program knows {SCHEMA_VERSION}"
        )
    placed = list(_placed(content))
    end = placed[-1][1] if placed else len(HEADER)
    return describe([w for w, _ in placed], len(content), whole=end == len(content))


def describe(windows: Sequence[Kept], size_bytes: int, *, whole: bool = True) -> Segment:
    """Return what a segment of these windows is."""
    return Segment(
        size_bytes=size_bytes,
        whole=whole,
        oldest_ms=min((w.at_ms for w in windows), default=0),
        newest_ms=max((w.at_ms for w in windows), default=0),
        counts=Counter((w.slot, w.label, Split(w.split)) for w in windows),
    )


def _numbers(disk: Disk) -> list[int]:
    found = [name for name in disk.names(FOLDER) if name.endswith(".seg")]
    return sorted(int(name[:-4]) for name in found if name[:-4].isdigit())


def _placed(content: bytes) -> Iterator[tuple[Kept, int]]:
    """Yield each whole window and where it ends."""
    at = len(HEADER)
    if content[:at] != HEADER:
        return
    while (found := read_record(content, at, limit=MAX_RECORD_BYTES)) is not None:
        body, at = found
        try:
            yield msgspec.msgpack.decode(body, type=Kept), at
        except msgspec.MsgspecError:
            return
