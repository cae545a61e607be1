"""The power is cut at every durable operation of what a device believes: metadata, time, wishes.

Real: the room that judges documents, the refresh, the clock, every durable write. Played: the
fleet, which outlives every cut, and the child process, whose function is called.
"""

import shutil
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from agent.contract.codec import encode
from agent.contract.envelope import sign_document
from agent.contract.frames import split_file
from agent.contract.messages import Fresh, FreshRequest, MetaBundle, MetaRequest
from agent.contract.topics import ASSIGNMENT, FRESH
from agent.daemon.agenda import Agenda
from agent.daemon.desired import Desired, Surroundings
from agent.disk import Disk
from agent.errors import RollbackError
from agent.identity.clock import TrustedClock
from agent.update import trust
from agent.update.refresh import refresh
from agent.worker.start import Finished
from tests.faulty_disk import FaultyDisk, PowerCutError
from tests.power_cuts import TRUST, Operation, Record, count_cuts
from tests.signed_fleet import (
    NOW_MS,
    SignedFleet,
    advance,
    assign,
    make_assignment,
    make_release,
    pinned,
)

DEVICE = "d-aaaaaaaaaaaaaaaa"
DAY_MS = 86_400_000


@dataclass
class Story:
    """A fleet at four moments: each later one has more metadata than the one before."""

    folder: Path
    moments: list[SignedFleet] = field(default_factory=list)

    def __post_init__(self) -> None:
        fleet = SignedFleet(self.folder / "fleet")
        for number in (1, 2, 3):
            fleet.publish_release(make_release(number))
            if number == 2:
                fleet.rotate(2)
                fleet.reopen()
            self.moments.append(fleet.copy(self.folder / f"moment-{number}"))

    def begin(self, root: Path) -> None:
        """A device that was enrolled at the first moment."""
        first = self.moments[0].repository.bundle(0, ())
        trust.save(Disk(root), advance(pinned(self.moments[0]), first).state)


class Life:
    """One life: it follows the fleet from moment to moment, as far as the power lasts."""

    def __init__(self, disk: Disk) -> None:
        self.now = 100.0
        self.asked: list[MetaRequest | FreshRequest] = []
        self.jobs: list[trust.RefreshJob] = []
        self.agenda = Agenda()
        self.disk = disk
        held = trust.load(disk)
        assert held is not None, "the device forgot whom it trusts"
        nothing = lambda *_: None  # noqa: E731 - many places want one
        self.room = Desired(
            disk,
            device=DEVICE,
            fleet="demo",
            state=held,
            clock=TrustedClock(disk, lambda: self.now, lambda: NOW_MS / 1000),
            agenda=self.agenda,
            answer_seconds=1.0,
            fresh_seconds=1000.0,
            around=Surroundings(
                ask=lambda request: bool(self.asked.append(request) or True),
                start_refresh=lambda job, _: self.jobs.append(job),
                accepted=nothing,
                time_known=nothing,
                answered=nothing,
                trusted=nothing,
                wish=nothing,
                manifest=nothing,
                manifest_failed=nothing,
                alarm=nothing,
                monotonic=lambda: self.now,
            ),
        )

    def follow(self, story: Story) -> None:
        """Hear at each moment the time, the metadata and an assignment."""
        for number, fleet in enumerate(story.moments, 1):
            key = fleet.online.director.signing
            self.room.ask_fresh()
            asked = [r for r in self.asked if isinstance(r, FreshRequest)][-1]
            said = Fresh(
                device=DEVICE,
                nonce=asked.nonce,
                director_epoch=1,
                sequence=0,
                digest=None,
                now_ms=NOW_MS + number * DAY_MS // 4,
            )
            self.room.take_fresh(sign_document(key, FRESH.at(DEVICE).logical, said))
            self.collect(fleet, make_release(number).target)
            wish = {"motion": assign(make_release(number))}
            wanted = make_assignment(DEVICE, number, slots=wish)
            self.room.take_assignment(sign_document(key, ASSIGNMENT.at(DEVICE).logical, wanted))

    def collect(self, fleet: SignedFleet, target: str) -> None:
        self.room.refresh()
        request = [r for r in self.asked if isinstance(r, MetaRequest)][-1]
        files = fleet.repository.bundle(request.root, (*request.targets, target))
        for piece in split_file(bytes.fromhex(request.id), encode(MetaBundle(files=files))):
            self.room.take_piece(piece)
        answer = trust.RefreshAnswer(result=refresh(self.jobs.pop()))
        self.room.refreshed(Finished(ticket="refresh", kind="refresh", answer=answer))


def believed(root: Path) -> tuple[int, int, int, int]:
    """What a device has durably: versions of root and targets, the floor, the sequence."""
    held = trust.load(Disk(root))
    assert held is not None
    room = Life(Disk(root)).room
    floor = TrustedClock(Disk(root), lambda: 0.0, lambda: 0.0).floor_ms
    accepted = room.accepted.accepted.sequence if room.accepted else 0
    return held.root_version, held.marks["targets"].version, floor, accepted


def require_no_way_back(story: Story, root: Path) -> None:
    """An older moment that is served now is refused, whatever the cut left."""
    held = trust.load(Disk(root))
    assert held is not None
    first = story.moments[0].repository.bundle(held.root_version, ())
    if held.marks["targets"].version > 2:
        with pytest.raises(RollbackError):
            advance(held, first)


def lives(story: Story, root: Path, good: int) -> list[Operation]:
    disk = FaultyDisk(root, good)
    Life(disk).follow(story)
    return disk.log


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Story:
    return Story(tmp_path_factory.mktemp("trust"))


def test_a_cut_at_any_operation_leaves_old_trust_or_new_and_never_goes_back(
    story: Story, tmp_path: Path, record_property: Record
) -> None:
    story.begin(tmp_path / "healthy")
    log = lives(story, tmp_path / "healthy", 10**9)
    end = believed(tmp_path / "healthy")
    assert end[0] == 2
    assert end[3] == 3
    assert {operation.area for operation in log} == {TRUST}
    count_cuts(record_property, log)
    record_property("measured", f"power cut: trust, at each of {len(log)} durable operations")
    assert len(log) >= 16
    before = (0, 0, 0, 0)
    for good, operation in enumerate(log):
        root = tmp_path / str(good)
        story.begin(root)
        with pytest.raises(PowerCutError):
            lives(story, root, good)
        left = believed(root)
        assert all(now >= then for now, then in zip(left, before, strict=True)), operation
        before = left
        require_no_way_back(story, root)
        Life(Disk(root)).follow(story)
        assert believed(root) == end, operation
        shutil.rmtree(root)


def test_a_second_cut_anywhere_in_the_recovery_changes_nothing(
    story: Story, tmp_path: Path, record_property: Record
) -> None:
    story.begin(tmp_path / "healthy")
    log = lives(story, tmp_path / "healthy", 10**9)
    end = believed(tmp_path / "healthy")
    pairs = 0
    for good in range(0, len(log), 3):
        first = tmp_path / str(good)
        story.begin(first)
        with pytest.raises(PowerCutError):
            lives(story, first, good)
        for again in range(0, len(log), 3):
            second = tmp_path / f"{good}-{again}"
            shutil.copytree(first, second)
            try:
                lives(story, second, again)
            except PowerCutError:
                pairs += 1
            require_no_way_back(story, second)
            Life(Disk(second)).follow(story)
            assert believed(second) == end, f"{log[good]}, then {again}"
            shutil.rmtree(second)
    record_property("measured", f"power cut: trust, and again while recovering: {pairs} pairs")
    assert pairs > 10


class InPlace(FaultyDisk):
    """The fault: trust is overwritten, not replaced."""

    def replace(self, name: str, content: bytes) -> None:
        if name == trust.TRUST:
            self.write(name, content)
        else:
            super().replace(name, content)


def test_trust_written_in_place_would_be_found(story: Story, tmp_path: Path) -> None:
    story.begin(tmp_path / "healthy")
    healthy = InPlace(tmp_path / "healthy")
    Life(healthy).follow(story)
    torn = next(n for n, line in enumerate(healthy.log) if line == f"write {trust.TRUST}")
    story.begin(tmp_path / "cut")
    with pytest.raises(PowerCutError):
        Life(InPlace(tmp_path / "cut", torn)).follow(story)
    with pytest.raises(Exception, match="does not parse"):
        believed(tmp_path / "cut")
