"""One device, its slot and its director, life after life, with the power cut in between.

Real: machine, journal, store, transfer, outbox, boot counter, the daemon's glue between
them, and every durable write. Played: what the fleet sends, and what a child process or a
probation finds.

Rule 1: a model is "served" only when every byte behind it has the signed hash; anything
        else raises ``MixtureError``, which no code under test may turn into a report.
Rule 2: the director and the reports that were received outlive every power cut.
"""

import shutil
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import sha512
from pathlib import Path

from agent.contract.codec import decode, encode
from agent.contract.frames import split_file
from agent.contract.manifest import Artifact
from agent.contract.messages import Assigned, Event, Finding, Hosted
from agent.contract.topics import EVENT
from agent.daemon.updating import Surroundings, Updating
from agent.disk import Disk
from agent.errors import AgentError
from agent.identity.device_key import next_boot
from agent.link.fetch import Fetch, Fetched, Fetching
from agent.link.outbox import Outbox
from agent.update import machine
from agent.update.slot import Idle
from agent.update.store import Store
from agent.worker.jobs import CheckAnswer
from tests.faulty_disk import FaultyDisk, PowerCutError
from tests.power_cuts import Operation
from tests.releases import Published

SLOT, DEVICE = "motion", "d-aaaaaaaaaaaaaaaa"
INSTALLED = (Hosted(name="onnx", version="1"),)


class MixtureError(BaseException):
    """Something was served that is not one whole release."""


@dataclass(frozen=True, kw_only=True)
class Fate:
    """What the world holds for a release: which of its two examinations it passes."""

    checks: bool = True
    proves: bool = True


@dataclass(frozen=True, kw_only=True)
class Story:
    """What the director wants, one wish after another, and how it must end.

    Attributes:
        before: Releases that were installed in order, without any cut.
        wishes: The wishes whose every operation is cut.
        hasty: The director changes its mind while the wish is on probation.
        fates: By manifest digest; good where absent.
        ends: What serves at the end.
        told: (release, outcome) of every end that must be reported, exactly once.

    """

    name: str
    before: tuple[Published, ...] = ()
    wishes: tuple[Published, ...]
    hasty: bool = False
    fates: Mapping[str, Fate] = field(default_factory=dict)
    ends: Published | None
    told: tuple[tuple[Published, str], ...]

    @property
    def known(self) -> dict[str, Published]:
        """Every release by manifest digest."""
        return {p.digest: p for p in (*self.before, *self.wishes)}

    def fate(self, digest: str) -> Fate:
        """Return what becomes of a release."""
        return self.fates.get(digest, Fate())


class Director:
    """Outlives the device's power: the standing wish, and whether it was reached."""

    def __init__(self, wishes: tuple[Published, ...]) -> None:
        self._wishes = deque(wishes)

    @property
    def wish(self) -> Published:
        return self._wishes[0]

    def go_on(self) -> bool:
        """Take the next wish, if there is one."""
        if len(self._wishes) == 1:
            return False
        self._wishes.popleft()
        return True


class Life:
    """The device from one start to the next."""

    def __init__(self, disk: Disk, story: Story, director: Director) -> None:
        self.disk, self.story, self.director = disk, story, director
        self.store = Store(disk)
        self.outbox = open_outbox(disk)
        self.serving: str | None = None
        self.served: list[str | None] = []
        self._todo: deque[Callable[[], None]] = deque()
        self._vouched: set[str] = set()
        nothing = lambda *_: None  # noqa: E731 - four places want one
        self.updating = Updating(
            disk,
            self.store,
            slots=(SLOT,),
            hardware="generic-linux",
            reserve_bytes=0,
            retry_seconds=0.0,
            around=Surroundings(
                want_manifest=self._want_manifest,
                permitted=lambda *_: False,
                vouched=self._vouched.__contains__,
                download=self._download,
                stop_download=nothing,
                check=self._check,
                serve=self._serve,
                prove=self._prove,
                stop_proving=nothing,
                report=self._report,
                committed=nothing,
                changed=nothing,
            ),
        )

    @property
    def state(self) -> machine.State:
        return self.updating.states.get(SLOT, machine.State())

    def start(self) -> None:
        """Begin as the daemon does: repeat what was interrupted."""
        self.updating.resume(INSTALLED)

    def obey(self) -> None:
        """Follow the director until it has no other wish."""
        while True:
            self.updating.tell(SLOT, machine.Wanted(self.director.wish.assigned))
            self._work()
            if not self.director.go_on():
                return

    def _work(self) -> None:
        while self._todo:
            self._todo.popleft()()

    def _want_manifest(self, assigned: Assigned) -> None:
        content = self.story.known[assigned.digest].manifest
        self._vouched.add(assigned.digest)
        self._todo.append(lambda: self.updating.manifest_arrived(assigned, content))

    def _download(self, slot: str, digest: str, missing: tuple[Artifact, ...]) -> None:
        def fetch() -> None:
            for artifact in missing:
                fetch_artifact(self.disk, artifact, self.story.known[digest].files[artifact.digest])
            self.updating.tell(slot, machine.Fetched(digest))

        self._todo.append(fetch)

    def _check(self, slot: str, digest: str) -> None:
        def answer() -> None:
            held = self.story.fate(digest).checks
            self._require_whole(digest)
            finding = Finding(check="golden-vectors", held=held, why="8 vectors were tried")
            self.updating.checked(slot, digest, CheckAnswer(findings=(finding,), rss_bytes=1))

        self._todo.append(answer)

    def _serve(self, _slot: str, release: Assigned | None, beside: Assigned | None) -> None:
        for one in (release, beside):
            if one is not None:
                self._require_whole(one.digest)
        self.serving = release.digest if release else None
        self.served.append(self.serving)

    def _prove(self, slot: str, prove: machine.Prove) -> None:
        def answer() -> None:
            digest, proves = prove.candidate.digest, self.story.fate(prove.candidate.digest).proves
            if self.story.hasty and self.director.go_on():
                self.updating.tell(slot, machine.Wanted(self.director.wish.assigned))
            finding = Finding(check="agreement", held=proves, why="40 windows were compared")
            news = machine.Proved if proves else machine.Failed
            self.updating.tell(slot, news(digest, (finding,)))

        self._todo.append(answer)

    def _report(self, slot: str, outcome: machine.Outcome) -> None:
        self.outbox.append(EVENT, "update", encode(outcome.event(DEVICE, slot, 1, 1)))

    def _require_whole(self, digest: str) -> None:
        try:
            release = self.store.read_manifest(digest)
            for artifact in release.artifacts:
                self.store.verify(artifact.digest)
        except AgentError as why:
            raise MixtureError(f"{digest[:16]} is not whole: {why}") from why


def fetch_artifact(disk: Disk, artifact: Artifact, content: bytes) -> None:
    """Fetch through the real transfer, from a fleet that answers every request."""
    now = 0.0
    fetch = Fetch(artifact, disk, now_seconds=now)
    pieces = split_file(bytes.fromhex(artifact.digest[:16]), content, artifact.chunk_size)
    while isinstance(fetch.progress(now), Fetching):
        wanted = [r for request in fetch.requests(now) for r in request.r]
        assert wanted, "the transfer asks for nothing and is not complete"
        for first, count in wanted:
            for piece in pieces[first : first + count]:
                now += 0.01  # slow enough that the map is written before the last piece
                fetch.take(piece, now)
    assert fetch.progress(now) == Fetched(digest=artifact.digest)


def open_outbox(disk: Disk) -> Outbox:
    """Open the real spool in a new boot; signatures are another test's matter."""
    return Outbox(
        disk,
        device=DEVICE,
        boot=next_boot(disk),
        sign=lambda _topic, _boot, _sequence, payload: sha512(payload).digest(),
        moment=lambda: (1, 1),
    )


def received(disk: Disk) -> list[Event]:
    """Return what the fleet ends up with: unique on the id, as its registry does it."""
    records = open_outbox(disk).pending(limit_bytes=10**9)
    numbers = [(record.stamp.boot, record.stamp.sequence) for record in records]
    assert len(set(numbers)) == len(numbers), "two reports share a number"
    return list({e.id: e for e in (decode(Event, r.payload) for r in records)}.values())


DiskOf = Callable[[Path, int], Disk]


def prepare(story: Story, home: Path) -> None:
    """Install what ran before, without a cut, and have its reports received."""
    for one in story.before:
        life = Life(Disk(home), story, Director((one,)))
        life.start()
        life.obey()
        for record in life.outbox.pending(limit_bytes=10**9):
            life.outbox.acknowledge(record.stamp.boot, record.stamp.sequence)
        life.outbox.flush()


def healthy_operations(story: Story, seed: Path, home: Path, disk_of: DiskOf) -> list[Operation]:
    """Live the story without a cut and return every durable operation, in order."""
    shutil.copytree(seed, home)
    disk = disk_of(home, 10**9)
    assert isinstance(disk, FaultyDisk)
    director = Director(story.wishes)
    live_to_the_end(story, disk, director)
    return disk.log


def live_to_the_end(story: Story, disk: Disk, director: Director) -> None:
    """Start, obey, and prove the one good outcome."""
    old = story.before[-1].digest if story.before else None
    life = Life(disk, story, director)
    life.start()
    allowed = {old, *(p.digest for p in story.wishes)} - (set() if old is None else {None})
    assert life.serving in allowed, "a start served neither the old nor the new release"
    life.obey()
    if old is not None:
        assert None not in life.served, "for a moment nothing served"
    assert life.serving == (story.ends.digest if story.ends else None), "the wrong release serves"
    assert isinstance(life.state.phase, Idle)
    _require_tidy(story, life)
    events = received(Disk(disk.root))
    ends = sorted((event.release or "", event.outcome or "") for event in events)
    wanted = sorted((p.digest, word) for p, word in story.told)
    assert ends == wanted, "not every end was told exactly once"


def _require_tidy(story: Story, life: Life) -> None:
    needed = {digest for kept in life.state.kept for digest in story.known[kept].files}
    left = set(life.disk.names("store"))
    assert left == needed, f"{len(left - needed)} files too many, {len(needed - left)} too few"


def cut_everywhere(
    story: Story, seed: Path, tmp_path: Path, disk_of: DiskOf, cuts: int = 1
) -> Iterator[tuple[Operation | str, BaseException | None]]:
    """Cut the power at every operation, and yield where, and what then went wrong."""
    for good, operation in enumerate(
        healthy_operations(story, seed, tmp_path / f"{story.name}-healthy", disk_of)
    ):
        home = tmp_path / f"{story.name}-{cuts}-{good}"
        shutil.copytree(seed, home)
        yield from _cut_and_go_on(story, home, (operation, good), disk_of, cuts)
        shutil.rmtree(home)


def _cut_and_go_on(
    story: Story, home: Path, at: tuple[Operation, int], disk_of: DiskOf, cuts: int
) -> Iterator[tuple[Operation | str, BaseException | None]]:
    operation, good = at
    director = Director(story.wishes)
    wrong = _one_life(story, disk_of(home, good), director)
    if not isinstance(wrong, PowerCutError):
        yield operation, wrong or AssertionError("the power was never cut")
    elif cuts == 1:
        yield operation, _one_life(story, disk_of(home, 10**9), director)
    else:
        again = 0
        while True:
            second = home.with_name(f"{home.name}-{again}")
            shutil.copytree(home, second)
            later = Director(tuple(director._wishes))
            wrong = _one_life(story, disk_of(second, again), later)
            if not isinstance(wrong, PowerCutError):
                yield f"{operation}, then whole", wrong
                return
            yield f"{operation}, then {again}", _one_life(story, disk_of(second, 10**9), later)
            shutil.rmtree(second)
            again += 1


def _one_life(story: Story, disk: Disk, director: Director) -> BaseException | None:
    try:
        live_to_the_end(story, disk, director)
    except (PowerCutError, MixtureError, AssertionError, AgentError) as wrong:
        return wrong
    return None
