"""The arrays that runs send to many devices: kept as files, coded once, served in chunks.

Rule 1: a record is what its digest says. Devices that hold the run's record before it take
        the difference, all others the record itself; both are made once for all of them.
Rule 2: of each run the newest few records stay, because replies are differences to them.
        Nothing here is irreplaceable: a run that is taken up pushes its messages again.
"""

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Final

from agent.contract import updates
from agent.contract.limits import INLINE_BYTES
from agent.contract.manifest import Artifact, Source
from agent.contract.rounds import SharedRecord
from agent.contract.shared_arrays import cut_message, in_chunks
from fleet.registry.artifacts import Artifacts

KEPT_RECORDS: Final = 24
"""Of one run: some sends of some records, so that a late reply still finds its base."""
MAX_HASH_CHARACTERS: Final = 48 * 1024
"""Of all chunks that a task names: it is a document of 64 KiB. Above, differences stay away."""
LEFTOVER_MS: Final = 2 * 86_400_000
"""A task lasts a day at most; what no run of this manager's life uses goes after two."""


@dataclass(slots=True)
class _Run:
    """What one run sent: files by the record's digest, sources, and the last by its place."""

    files: OrderedDict[str, tuple[str, ...]] = field(default_factory=OrderedDict)
    sources: dict[str, tuple[Source, ...]] = field(default_factory=dict)
    last: dict[int, tuple[bytes, str]] = field(default_factory=dict)


class RoundRecords:
    """Records by digest in one folder.

    Args:
        folder: Made when the first comes.
        reserve_bytes: What stays free on its disk.

    """

    def __init__(self, folder: Path, *, reserve_bytes: int = 0) -> None:
        self.shelf = Artifacts(folder, reserve_bytes=reserve_bytes)
        self._runs: dict[str, _Run] = {}

    def share(self, run: str, message: bytes) -> tuple[bytes, tuple[SharedRecord, ...]]:
        """Return a message without its larger records, and how devices get these.

        Raises:
            MalformedError: It is not a Flower message.
            DiskFullError, RegistryError: The disk refuses.

        """
        frame, cuts = cut_message(message, least=INLINE_BYTES + 1)
        known = self._runs.setdefault(run, _Run())
        found = [self._shared(known, n, bytes(cut.content)) for n, cut in enumerate(cuts)]
        told = sum(len(source.chunks) for _, sources in found for source in sources)
        most = 1 if told > MAX_HASH_CHARACTERS else 2
        return frame, tuple(
            SharedRecord(
                at=cut.at,
                artifact=Artifact(
                    digest=digest, size=len(cut.content), chunks="", sources=sources[:most]
                ),
            )
            for cut, (digest, sources) in zip(cuts, found, strict=True)
        )

    def keep(self, run: str, message: bytes) -> None:
        """Keep every record of a message, so that a reply may differ from it.

        Raises:
            MalformedError: It is not a Flower message.
            DiskFullError, RegistryError: The disk refuses.

        """
        known = self._runs.setdefault(run, _Run())
        for cut in cut_message(message, least=1)[1]:
            digest = cut.digest
            if digest not in known.files:
                self.shelf.put(bytes(cut.content))
                self._note(known, digest, (digest,))

    def read(self, digest: str) -> bytes:
        """Return a record's bytes.

        Raises:
            NotFoundError: It is not kept any more.
            RegistryError: The file is damaged.

        """
        return self.shelf.read(digest)

    def forget(self, run: str) -> None:
        """Let go of what a run that has ended sent."""
        ended = self._runs.pop(run, None)
        if ended is not None:
            self._remove(name for names in ended.files.values() for name in names)

    def tidy(self, now_ms: int) -> None:
        """Let go of what earlier lives of this manager left here."""
        self._remove(self.shelf.older(now_ms - LEFTOVER_MS))

    def _shared(self, known: _Run, number: int, content: bytes) -> tuple[str, tuple[Source, ...]]:
        """Return the digest of a record and its sources, which are made the first time."""
        before = known.last.get(number)
        if before is not None and before[0] == content:
            return before[1], known.sources[before[1]]
        digest = sha256(content).hexdigest()
        if digest not in known.sources:
            sources = [self._source(*updates.pack(content), None)]
            if before is not None:
                form, coded = updates.pack(content, before[0])
                if form == updates.XOR and len(coded) < sources[0].size:
                    sources.append(self._source(form, coded, before[1]))
            self.shelf.put(content)
            known.sources[digest] = tuple(sources)
            self._note(known, digest, (digest, *(source.digest for source in sources)))
        known.last[number] = content, digest
        return digest, known.sources[digest]

    def _source(self, form: str, coded: bytes, base: str | None) -> Source:
        self.shelf.put(coded)
        told = in_chunks(coded)
        return Source(digest=told.digest, size=told.size, chunks=told.chunks, kind=form, base=base)

    def _note(self, known: _Run, digest: str, files: tuple[str, ...]) -> None:
        known.files[digest] = files
        known.files.move_to_end(digest)
        while len(known.files) > KEPT_RECORDS:
            oldest, names = known.files.popitem(last=False)
            known.sources.pop(oldest, None)
            known.last = {n: last for n, last in known.last.items() if last[1] != oldest}
            self._remove(names)

    def _remove(self, names: Iterable[str]) -> None:
        used = {n for run in self._runs.values() for files in run.files.values() for n in files}
        for name in names:
            if name not in used:
                self.shelf.remove(name)
