"""A reply's arrays as they are sent: losslessly, or as the coarse difference a run asks for.

Rule 1: a reply to a task that shares nothing and asks for nothing stays as it is: whoever
        made that task may know no other.
Rule 2: what a coarse form leaves out is kept for the next task of the same run, and is
        written after the answer: a power cut in between loses some of it, and never
        counts anything twice.
Rule 3: the rounding of a task is the same again wherever it is done again.
"""

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from typing import Annotated, Final

from msgspec import Meta

from agent.contract.codec import Versioned, decode, encode
from agent.contract.frames import pack_parcel, unpack_parcel
from agent.contract.limits import INLINE_BYTES, MAX_SHARED_RECORDS
from agent.contract.manifest import Name
from agent.contract.rounds import SentRecord, Size, Task
from agent.contract.shared_arrays import Cut, cut_message
from agent.disk import Disk
from agent.errors import ContractError

FOLDER: Final = "residuals"
KEPT_RUNS: Final = 4
_LOSSLESS: Final = "f32"


class Residual(Versioned, frozen=True, kw_only=True):
    """What the updates of a run left out up to ``task``; one length for each record."""

    run: Name
    task: Name
    lengths: Annotated[tuple[Size, ...], Meta(max_length=MAX_SHARED_RECORDS)]


@dataclass(frozen=True, slots=True, kw_only=True)
class CodedReply:
    """What is attached to an answer, and the residual that follows from it, if any."""

    sent: tuple[SentRecord, ...]
    attachment: bytes
    residual: bytes | None = None


def code_reply(task: Task, message: bytes, reply: bytes, disk: Disk) -> CodedReply:
    """Return a reply as it is sent.

    Args:
        task: What was asked.
        message: Its Flower message, whole.
        reply: The Flower message that answers it.
        disk: Where residuals lie.

    Raises:
        MalformedError: The reply is not a Flower message, or holds what cannot be sent so.
        StoreError: The residual cannot be read.

    """
    coarse = task.kind == "train" and task.updates != _LOSSLESS
    if not task.shared and not coarse:
        return CodedReply(sent=(), attachment=reply)
    frame, cuts = cut_message(reply, least=1 if coarse else INLINE_BYTES + 1)
    if not cuts:
        return CodedReply(sent=(), attachment=reply)
    _, received = cut_message(message, least=1)
    known = {shared.artifact.digest for shared in task.shared}
    before = _read(disk, task.run) if coarse else ()
    sent, parts, residuals = [], [frame], []
    for number, cut in enumerate(cuts):
        left = before[number] if number < len(before) else b""
        record, coded, residual = _coded(task, cut, received, known, left, coarse=coarse)
        sent.append(record)
        parts.append(coded)
        residuals.append(residual)
    kept = _pack(task, residuals) if coarse else None
    return CodedReply(sent=tuple(sent), attachment=b"".join(parts), residual=kept)


def keep_residual(disk: Disk, run: str, content: bytes) -> None:
    """Keep what an answer left out, and forget runs of long ago.

    Raises:
        DiskFullError, StoreError: The disk refuses.

    """
    disk.replace(f"{FOLDER}/{run}", content)
    names = sorted(disk.names(FOLDER), key=lambda n: disk.path(f"{FOLDER}/{n}").stat().st_mtime_ns)
    for name in names[:-KEPT_RUNS]:
        disk.remove(f"{FOLDER}/{name}")


def _coded(
    task: Task,
    cut: Cut,
    received: Iterable[Cut],
    known: set[str],
    left: bytes,
    *,
    coarse: bool,
) -> tuple[SentRecord, bytes, bytes]:
    """Return how one record is sent, its bytes, and what they leave out."""
    from agent.contract import updates  # noqa: PLC0415 -- its libraries are heavy

    alike = [one for one in received if len(one.content) == len(cut.content)]
    if coarse:
        base = next((one for one in alike if updates.can_differ(cut.content, one.content)), None)
        if base is not None:
            seed = int.from_bytes(sha256(f"{task.device} {task.task}".encode()).digest()[:8], "big")
            coded, residual = updates.coarsen(
                task.updates, cut.content, base.content, seed=seed, residual=left
            )
            return _record(cut, task.updates, base.digest, coded), coded, residual
    base = next((one for one in alike if one.digest in known), None)
    form, coded = updates.pack(cut.content, base.content if base else None)
    against = base.digest if base and form == updates.XOR else None
    return _record(cut, form, against, coded), coded, b""


def _record(cut: Cut, form: str, base: str | None, coded: bytes) -> SentRecord:
    return SentRecord(at=cut.at, size=len(cut.content), form=form, base=base, length=len(coded))


def _pack(task: Task, residuals: list[bytes]) -> bytes:
    lengths = tuple(len(residual) for residual in residuals)
    told = Residual(run=task.run, task=task.task, lengths=lengths)
    return pack_parcel(encode(told), b"".join(residuals))


def _read(disk: Disk, run: str) -> tuple[bytes, ...]:
    """Return what earlier updates of a run left out; nothing where it cannot be read."""
    content = disk.read(f"{FOLDER}/{run}")
    if content is None:
        return ()
    with suppress(ContractError):  # of a newer agent, or cut short: it is begun anew
        document, rest = unpack_parcel(content)
        lengths = decode(Residual, document).lengths
        if sum(lengths) == len(rest):
            ends = [sum(lengths[: n + 1]) for n in range(len(lengths))]
            return tuple(rest[e - n : e] for e, n in zip(ends, lengths, strict=True))
    return ()
