"""Samples that others send: the payloads of an MQTT topic.

Rule 1: whoever pushes never waits: the buffer is bounded, the oldest goes first, and what was
        dropped is counted.
Rule 2: what is no sample costs itself, and is counted with its reason. An object that has none
        of the fields is somebody else's message on a filter, and is passed over.
Rule 3: silence is noticed: the time of the last good sample is kept.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import Final

import msgspec
import numpy as np

from agent.contract.limits import MAX_PAYLOAD_BYTES
from agent.errors import MalformedError
from agent.infer.sources import Block
from agent.refusals import OversizedError

MAX_WAITING_PAYLOADS: Final = 256
_PRINTABLE: Final = bytes(range(0x20, 0x7F)) + b"\t\r\n"
_ROWS: Final = msgspec.json.Decoder(list[list[float] | float])
_ANY: Final = msgspec.json.Decoder()


@dataclass(frozen=True, slots=True, kw_only=True)
class Flow:
    """How a source of pushed samples does.

    Attributes:
        malformed: Payloads that were no samples, and why the last one was not.
        why: Of the last malformed one.
        dropped: Payloads that found the buffer full of newer ones.
        silent_seconds: Since the last good sample, or since the source began.

    """

    malformed: int
    why: str
    dropped: int
    silent_seconds: float


class Pushed:
    """Samples that arrive as payloads, see ``read_samples`` and ``read_fields``.

    Args:
        channels: Of the model that listens.
        fields: Members of JSON objects that are the channels; empty for arrays.
        clock: Monotonic seconds.

    """

    def __init__(
        self,
        channels: int,
        fields: Sequence[str] = (),
        *,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._clock = clock
        self._channels = channels
        self._fields = tuple(tuple(field.split(".")) for field in fields)
        self._waiting: deque[bytes] = deque()
        self._turned = False
        self._news = threading.Condition()
        self._malformed = 0
        self._why = ""
        self._dropped = 0
        self._last = self._clock()

    @property
    def flow(self) -> Flow:
        """How it does."""
        return Flow(
            malformed=self._malformed,
            why=self._why,
            dropped=self._dropped,
            silent_seconds=self._clock() - self._last,
        )

    def expect(self, channels: int) -> None:
        """Read what comes from now on as samples of so many channels: another model listens."""
        with self._news:
            if channels != self._channels:
                self._channels = channels
                self._waiting.clear()
                self._turned = True

    def push(self, payload: bytes) -> None:
        """Take one payload; never waits for the reader, never raises."""
        with self._news:
            if len(self._waiting) >= MAX_WAITING_PAYLOADS:
                self._waiting.popleft()
                self._dropped += 1
            self._waiting.append(payload)
            self._news.notify()

    def blocks(self, stop: threading.Event) -> Iterator[Block | None]:
        """Yield the samples of each payload; a drop or another model is a break in the stream."""
        dropped = 0
        while not stop.is_set():
            with self._news:
                if not self._waiting:
                    self._news.wait(0.2)
                    continue
                payload = self._waiting.popleft()
                broken, dropped = self._dropped != dropped or self._turned, self._dropped
                channels, self._turned = self._channels, False
            if broken:
                yield None
            try:
                block = self._read(payload, channels)
            except MalformedError as why:
                self._malformed, self._why = self._malformed + 1, str(why)
                continue
            if block is not None:
                self._last = self._clock()
                yield block

    def _read(self, payload: bytes, channels: int) -> Block | None:
        if not self._fields:
            return read_samples(payload, channels)
        block = read_fields(payload, self._fields)
        return block if block is None else _of_channels(block, channels)


def read_samples(payload: bytes, channels: int) -> Block:
    """Read a JSON array of samples, or raw little-endian float32.

    JSON is one sample ``[x, y, z]`` or several ``[[x, y, z], …]``. Any payload of printable
    characters only is read as JSON.

    Raises:
        MalformedError: Neither JSON nor float32 of this number of channels, or over the limit.

    """
    _limit(payload)
    if payload and not payload.translate(None, _PRINTABLE):
        try:
            samples = _array(_ROWS.decode(payload))
        except (msgspec.MsgspecError, ValueError, OverflowError, RecursionError) as why:
            raise MalformedError(f"samples do not parse: {why}") from why
    elif payload and len(payload) % (4 * channels) == 0:
        samples = np.frombuffer(payload, "<f4").reshape(-1, channels).astype(np.float32)
    else:
        raise MalformedError(f"{len(payload)} bytes are not float32 samples of {channels} channels")
    return _of_channels(samples, channels)


def read_fields(payload: bytes, fields: Sequence[tuple[str, ...]]) -> Block | None:
    """Read a JSON object that is one sample, or an array of them.

    Args:
        payload: As it came.
        fields: Where each channel is: names of members, each of the one before.

    Returns:
        Samples (n, fields) float32; None for an object with none of the fields.

    Raises:
        MalformedError: Neither, over the limit, a field is missing, or is no number.

    """
    _limit(payload)
    try:
        said = _ANY.decode(payload)
    except (msgspec.MsgspecError, ValueError, RecursionError) as why:
        raise MalformedError(f"samples do not parse: {why}") from why
    objects = said if isinstance(said, list) else [said]
    rows = [_row(one, fields) for one in objects]
    held = [row for row in rows if row is not None]
    if not held:
        return None
    return _array(held)


def _row(said: object, fields: Sequence[tuple[str, ...]]) -> list[float] | None:
    if not isinstance(said, dict):
        raise MalformedError(f"a sample is {_kind(said)}; wanted an object with the fields")
    found = [_member(said, path) for path in fields]
    if all(one is None for one in found):
        return None
    row = []
    for path, one in zip(fields, found, strict=True):
        if not isinstance(one, int | float):
            raise MalformedError(f"field {'.'.join(path)} is {_kind(one)}; wanted a number")
        try:
            row.append(float(one))
        except OverflowError as why:
            raise MalformedError(f"field {'.'.join(path)} is too large a number") from why
    return row


def _member(said: object, path: tuple[str, ...]) -> object:
    for name in path:
        if not isinstance(said, dict):
            return None
        said = said.get(name)
    return said


def _kind(said: object) -> str:
    match said:
        case None:
            return "missing"
        case str():
            return "a text"
        case list():
            return "an array"
        case dict():
            return "an object"
        case _:
            return "a number"


def _array(rows: list[list[float] | float] | list[list[float]]) -> Block:
    with np.errstate(over="ignore"):  # infinite then, which the model's own check refuses
        return np.atleast_2d(np.array(rows, np.float32))


def _of_channels(samples: Block, channels: int) -> Block:
    if samples.ndim != 2 or samples.shape[1] != channels:  # noqa: PLR2004 - (n, channels)
        raise MalformedError(f"samples are of shape {samples.shape}; wanted (n, {channels})")
    return samples


def _limit(payload: bytes) -> None:
    if len(payload) > MAX_PAYLOAD_BYTES:
        raise OversizedError(f"samples of {len(payload)} bytes are over {MAX_PAYLOAD_BYTES}")
