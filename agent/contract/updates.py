"""Forms in which the bytes of a record of arrays travel, and the way back.

    plain    as they are
    packed   bytes of the same significance together (four planes), as one zstd frame
    xor      the same of the bytes combined with those of a base of the same length
    f16      differences to the base as half floats, after a scale for each array
    int8     … as whole numbers of -127 to 127, after a scale for each 512
    int4     … of -7 to 7, two in a byte, after a scale for each 128
    topk:F   … the fraction F of largest magnitude: gaps between their places, half floats

Rule 1: the first three are lossless. The others keep the base's layout, differ in float32
        arrays alone, and carry all other arrays as they are; zstd packs the whole.
Rule 2: what coarse forms leave out is given back as a residual, which the next difference
        of the same run takes up (error feedback, Seide et al. 2014; Karimireddy et al.
        2019, arXiv 1901.09847). Rounding is stochastic (QSGD, Alistarh et al. 2017, arXiv
        1610.02132), and the same again for the same seed.
Rule 3: how many bytes come out is known before anything is allocated.

Zstandard is RFC 8878. Loads numpy and zstandard: imported only by who codes arrays.
"""

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from zstandard import ZstdCompressor, ZstdDecompressor, ZstdError, get_frame_parameters

from agent.contract.limits import MAX_FLOWER_BYTES
from agent.contract.records import Span, find_arrays
from agent.errors import MalformedError

PLAIN: Final = "plain"
PACKED: Final = "packed"
XOR: Final = "xor"
LOSSLESS: Final = "f32"
"""What a run asks for where the receiver shall have the very bytes."""

Bytes = bytes | memoryview
Floats = NDArray[np.float32]
_PLANES: Final = 4
_LEVEL: Final = 1
_FLOAT: Final = np.dtype("<f4")
_BLOCK: Final = {"int8": 512, "int4": 128}
_LARGEST: Final = {"int8": 127, "int4": 7}


def pack(record: Bytes, base: Bytes | None = None) -> tuple[str, bytes]:
    """Return the smallest lossless form of a record's bytes, and its name."""
    if base is not None and len(base) == len(record):
        form, found = XOR, _deflate(_planes(_combined(record, base)))
    else:
        form, found = PACKED, _deflate(_planes(np.frombuffer(record, np.uint8)))
    return (form, found) if len(found) < len(record) else (PLAIN, bytes(record))


def unpack(form: str, coded: Bytes, size: int, base: Bytes | None) -> bytes:
    """Return the bytes of a record of ``size`` bytes; lossless forms need a base for ``xor``.

    Raises:
        MalformedError: It is not such a form of so many bytes.

    """
    if form == PLAIN:
        if len(coded) != size:
            raise MalformedError(f"a record of {size} bytes comes with {len(coded)}")
        return bytes(coded)
    if form not in {PACKED, XOR}:
        return _coarse_record(form, coded, size, base)
    planes = _inflate(coded, size)
    if len(planes) != size:
        raise MalformedError(f"a record of {size} bytes comes with {len(planes)}")
    found = _whole(planes, size)
    if form == XOR:
        if base is None or len(base) != size:
            raise MalformedError("a record's difference came without its base")
        return bytes(_combined(found, base))
    return found


def can_differ(record: Bytes, base: Bytes) -> bool:
    """Return whether two records hold arrays of the same names, types and shapes."""
    if len(record) != len(base):
        return False
    here, there = find_arrays(memoryview(record)), find_arrays(memoryview(base))
    return [(s.key, s.start, s.array.dtype, s.array.shape) for s in here] == [
        (s.key, s.start, s.array.dtype, s.array.shape) for s in there
    ]


def coarsen(
    form: str, record: Bytes, base: Bytes, *, seed: int, residual: bytes = b""
) -> tuple[bytes, bytes]:
    """Return a coarse form of a record, and what it leaves out.

    Args:
        form: ``f16``, ``int8``, ``int4`` or ``topk:F``.
        record: Its bytes; ``can_differ`` from the base.
        base: Bytes of the record that it began as.
        seed: Of the rounding.
        residual: What was left out before, or nothing; one of another size counts as none.

    Raises:
        MalformedError: A difference is not finite, or the form is not known.

    """
    chance = np.random.Generator(np.random.PCG64(seed))
    spans, bases = find_arrays(memoryview(record)), find_arrays(memoryview(base))
    total = sum(s.array.size for s in spans if s.array.dtype == _FLOAT)
    fits = len(residual) == total * _FLOAT.itemsize
    left = np.frombuffer(residual, _FLOAT).copy() if fits else np.zeros(total, _FLOAT)
    parts, at = [], 0
    for span, before in zip(spans, bases, strict=True):
        flat = _flat(record, span)
        if span.array.dtype != _FLOAT:
            parts.append(flat.tobytes())
            continue
        here = slice(at, at + flat.size)
        at += flat.size
        with np.errstate(over="ignore", invalid="ignore"):  # what comes of it is looked at
            wanted = flat - _flat(base, before) + left[here]
        if not np.isfinite(wanted).all():
            raise MalformedError(f"array {span.key[:80]!r} has differences that are not finite")
        content = _coarse(form, wanted, chance)
        parts.append(content)
        left[here] = wanted - _Reader(form, content).differences(flat.size)
    return _deflate(b"".join(parts)), left.tobytes()


def _coarse_record(form: str, coded: Bytes, size: int, base: Bytes | None) -> bytes:
    if base is None or len(base) != size:
        raise MalformedError(f"a record of form {form[:16]!r} came without its base")
    spans = find_arrays(memoryview(base))
    most = sum(_most_bytes(form, s.array) for s in spans)
    reader = _Reader(form, _inflate(coded, most))
    made = bytearray(base)
    for span in spans:
        flat = _flat(base, span)
        if span.array.dtype == _FLOAT:
            with np.errstate(over="ignore"):  # whoever takes the arrays looks at them
                new = flat + reader.differences(flat.size)
        else:
            new = reader.take(span.array.dtype, flat.size)
        made[span.start : span.start + flat.nbytes] = new.tobytes()
    reader.end()
    return bytes(made)


def _flat(record: Bytes, span: Span) -> NDArray[Any]:
    """Return an array's numbers as they lie in the bytes, whatever their order."""
    return np.frombuffer(record, span.array.dtype, count=span.array.size, offset=span.start)


def _most_bytes(form: str, array: NDArray[Any]) -> int:
    """Return how many bytes one array of a coarse form has at most."""
    count = array.size
    if array.dtype != _FLOAT:
        return array.nbytes
    if form in _BLOCK:
        blocks = -(-count // _BLOCK[form])
        return blocks * 4 + (count if form == "int8" else -(-count // 2))
    return 8 + 6 * count


def _coarse(form: str, wanted: Floats, chance: np.random.Generator) -> bytes:
    if form in _BLOCK:
        return _blocks(form, wanted, chance)
    if form == "f16":
        scale = _FLOAT.type(np.abs(wanted).max(initial=0))
        return scale.tobytes() + _scaled(wanted, scale).astype("<f2").tobytes()
    if form.startswith("topk:"):
        return _largest(wanted, float(form.removeprefix("topk:")))
    raise MalformedError(f"updates of form {form[:16]!r} are not known")


def _blocks(form: str, wanted: Floats, chance: np.random.Generator) -> bytes:
    size, largest = _BLOCK[form], _LARGEST[form]
    padded = np.zeros((-(-wanted.size // size), size), _FLOAT)
    padded.reshape(-1)[: wanted.size] = wanted
    scales = np.abs(padded).max(axis=1) / _FLOAT.type(largest)
    steps = padded / np.where(scales > 0, scales, 1)[:, None]
    steps = np.floor(steps + chance.random(steps.shape, np.float32))
    whole = np.clip(steps, -largest, largest).astype(np.int8).reshape(-1)[: wanted.size]
    if form == "int4":
        pairs = np.zeros(wanted.size + wanted.size % 2, np.uint8)
        pairs[: wanted.size] = whole + 8
        packed = (pairs[::2] | pairs[1::2] << 4).tobytes()
    else:
        packed = whole.tobytes()
    return bytes(scales.astype(_FLOAT)) + packed


def _largest(wanted: Floats, fraction: float) -> bytes:
    count = min(wanted.size, max(1, round(fraction * wanted.size)))
    if not wanted.size:
        return bytes(8)
    places = np.sort(np.argpartition(np.abs(wanted), wanted.size - count)[-count:])
    gaps = np.diff(places, prepend=0).astype("<u4")
    values = wanted[places]
    scale = _FLOAT.type(np.abs(values).max())
    return b"".join(
        (
            np.uint32(count).tobytes(),
            bytes(scale),
            _planes(gaps.view(np.uint8)),
            bytes(_scaled(values, scale).astype("<f2")),
        )
    )


def _scaled(values: Floats, scale: Any) -> Floats:
    return values / scale if scale > 0 else np.zeros_like(values)


class _Reader:
    """Reads the arrays of a coarse form, none of them past the end."""

    def __init__(self, form: str, content: bytes) -> None:
        self._form, self._content, self._at = form, content, 0

    def take(self, dtype: Any, count: int) -> NDArray[Any]:
        kind = np.dtype(dtype)
        end = self._at + count * kind.itemsize
        if end > len(self._content):
            raise MalformedError(f"an update of form {self._form} is cut short")
        found = np.frombuffer(self._content, kind, count=count, offset=self._at)
        self._at = end
        return found

    def end(self) -> None:
        if self._at != len(self._content):
            raise MalformedError(f"an update of form {self._form} holds more than its arrays")

    def differences(self, count: int) -> Floats:
        if self._form in _BLOCK:
            return self._of_blocks(count)
        if self._form == "f16":
            return self._halves(self._scale(), count)
        return self._of_largest(count)

    def _of_blocks(self, count: int) -> Floats:
        size = _BLOCK[self._form]
        scales = _finite(self.take(_FLOAT, -(-count // size)), self._form)
        if self._form == "int8":
            whole = self.take(np.int8, count).astype(_FLOAT)
        else:
            pairs = self.take(np.uint8, -(-count // 2))
            both = np.column_stack([pairs & 15, pairs >> 4]).reshape(-1)[:count]
            whole = both.astype(_FLOAT) - 8
        with np.errstate(over="ignore"):
            return _finite(whole * np.repeat(scales, size)[:count], self._form)

    def _of_largest(self, count: int) -> Floats:
        kept = int(self.take("<u4", 1)[0])
        if kept > count:
            raise MalformedError(f"an update keeps {kept} of {count} numbers")
        scale = self._scale()
        gaps = np.frombuffer(_whole(self.take(np.uint8, 4 * kept).tobytes(), 4 * kept), "<u4")
        places = np.cumsum(gaps, dtype=np.uint64)
        if kept and (places[-1] >= count or not gaps[1:].all()):
            raise MalformedError("an update names numbers that its array has not")
        found = np.zeros(count, _FLOAT)
        found[places.astype(np.int64)] = self._halves(scale, kept)
        return found

    def _halves(self, scale: Any, count: int) -> Floats:
        with np.errstate(over="ignore", invalid="ignore"):
            return _finite(scale * self.take("<f2", count).astype(_FLOAT), self._form)

    def _scale(self) -> Any:
        return _finite(self.take(_FLOAT, 1), self._form)[0]


def _finite(values: NDArray[Any], form: str) -> NDArray[Any]:
    if not np.isfinite(values).all():
        raise MalformedError(f"an update of form {form} holds numbers that are not finite")
    return values


def _combined(record: Bytes, base: Bytes) -> NDArray[np.uint8]:
    return np.frombuffer(record, np.uint8) ^ np.frombuffer(base, np.uint8)


def _planes(content: NDArray[np.uint8]) -> bytes:
    return b"".join(content[n::_PLANES].tobytes() for n in range(_PLANES))


def _whole(planes: bytes, size: int) -> bytes:
    """Return what ``_planes`` took apart."""
    made, at = np.empty(size, np.uint8), 0
    for n in range(_PLANES):
        place = made[n::_PLANES]
        place[:] = np.frombuffer(planes, np.uint8, count=place.size, offset=at)
        at += place.size
    return made.tobytes()


def _deflate(content: bytes) -> bytes:
    coded: bytes = ZstdCompressor(level=_LEVEL).compress(content)
    return coded


def _inflate(coded: Bytes, most: int) -> bytes:
    """Return the content of a frame that says itself that it holds at most so many bytes."""
    try:
        told = get_frame_parameters(bytes(coded[:32])).content_size
        if not 0 <= told <= min(most, MAX_FLOWER_BYTES):
            raise MalformedError(f"an update claims {told} bytes; at most {most} can be")
        found = ZstdDecompressor().decompress(bytes(coded), max_output_size=max(1, told))
    except ZstdError as why:
        raise MalformedError(f"an update does not expand: {why}") from why
    if len(found) != told:
        raise MalformedError(f"an update makes {len(found)} of the {told} bytes that it claims")
    return found
