"""From signed documents to wishes, with a real signed repository and a real refresh."""

from dataclasses import dataclass, field
from datetime import timedelta
from hashlib import sha256
from pathlib import Path

import msgspec
import pytest
from nacl.signing import SigningKey

from agent.contract.authority import AUTHORITY_TARGET, Authority
from agent.contract.codec import decode, encode
from agent.contract.envelope import sign_document
from agent.contract.frames import split_file
from agent.contract.keys import Ed25519Signer
from agent.contract.manifest import encode_release
from agent.contract.messages import (
    Ack,
    Assigned,
    Assignment,
    ChunkRequest,
    Fresh,
    FreshRequest,
    MetaBundle,
    MetaRequest,
)
from agent.contract.topics import ACK, ASSIGNMENT, FRESH
from agent.daemon.accepted import ACCEPTED, MAX_KEPT_KEYS, AcceptedAssignment, keys_to_keep
from agent.daemon.agenda import Agenda
from agent.daemon.desired import Desired, Surroundings
from agent.disk import Disk
from agent.errors import AgentError, NewerStateError, StoreError
from agent.identity.clock import TrustedClock
from agent.update import trust
from agent.update.refresh import refresh
from agent.update.trust import RefreshAnswer, RefreshJob, load
from agent.worker.start import Finished
from tests.faulty_disk import FaultyDisk, PowerCutError
from tests.signed_fleet import (
    NOW,
    NOW_MS,
    SignedFleet,
    advance,
    assign,
    make_assignment,
    make_release,
    pinned,
)

DEVICE = "d-aaaaaaaaaaaaaaaa"
FIXTURE = Path(__file__).parents[1] / "fixtures" / "accepted-v1.json"


@dataclass
class Device:
    """The room of desired state, with its questions answered from a repository."""

    fleet: SignedFleet
    disk: Disk
    now: float = 100.0
    wall: float = NOW_MS / 1000
    known: int = 0
    asked: list[MetaRequest | FreshRequest | ChunkRequest] = field(default_factory=list)
    wishes: list[tuple[str, Assigned | None]] = field(default_factory=list)
    manifests: list[bytes] = field(default_factory=list)
    failures: list[AgentError] = field(default_factory=list)
    alarms: list[str] = field(default_factory=list)
    jobs: list[RefreshJob] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.agenda = Agenda()
        self.room = self.boot()

    def boot(self) -> Desired:
        trusted = advance(pinned(self.fleet), self.fleet.repository.bundle(0, ())).state
        return Desired(
            self.disk,
            device=DEVICE,
            fleet="demo",
            state=trusted,
            clock=TrustedClock(self.disk, lambda: self.now, lambda: self.wall),
            agenda=self.agenda,
            answer_seconds=10.0,
            fresh_seconds=1000.0,
            around=Surroundings(
                ask=lambda request: bool(self.asked.append(request) or True),
                start_refresh=lambda job, _: self.jobs.append(job),
                accepted=lambda: None,
                time_known=self.learn_time,
                answered=lambda: None,
                trusted=lambda: None,
                wish=lambda slot, assigned: self.wishes.append((slot, assigned)),
                manifest=lambda _, content: self.manifests.append(content),
                manifest_failed=lambda _, why: self.failures.append(why),
                alarm=lambda code, _: self.alarms.append(code),
                monotonic=lambda: self.now,
            ),
        )

    def learn_time(self) -> None:
        self.known += 1

    def wait(self, seconds: float) -> None:
        self.now += seconds
        for action in self.agenda.due(self.now):
            action()

    def serve(self) -> None:
        """Answer the newest metadata request and run what refreshes it starts."""
        request = [r for r in self.asked if isinstance(r, MetaRequest)][-1]
        files = self.fleet.repository.bundle(request.root, request.targets)
        content = encode(MetaBundle(files=files))
        for piece in split_file(bytes.fromhex(request.id), content, 1000):
            self.room.take_piece(piece)
        result = refresh(self.jobs.pop())
        self.room.refreshed(
            Finished(ticket="refresh", kind="refresh", answer=RefreshAnswer(result=result))
        )

    def assignment(self, sequence: int = 1, **changes: object) -> bytes:
        key = changes.pop("key", self.fleet.online.director.signing)
        said: Assignment = make_assignment(DEVICE, sequence, **changes)
        assert isinstance(key, SigningKey)
        return sign_document(key, ASSIGNMENT.at(DEVICE).logical, said)


@pytest.fixture
def device(tmp_path):
    return Device(SignedFleet(tmp_path / "fleet"), Disk(tmp_path / "state"))


def test_an_assignment_is_on_the_medium_before_it_is_wished(tmp_path):
    fleet = SignedFleet(tmp_path / "fleet")
    disk = FaultyDisk(tmp_path / "state", good=0)
    device = Device(fleet, disk)
    with pytest.raises(PowerCutError):
        device.room.take_assignment(device.assignment())
    assert device.wishes == []


def test_a_believed_assignment_is_wished_and_remembered(device):
    device.room.take_assignment(device.assignment())
    assert device.wishes == [("motion", assign(make_release()))]
    again = device.boot()
    again.raise_wishes()
    assert device.wishes == [("motion", assign(make_release()))] * 2
    assert again.accepted is not None
    assert again.accepted.accepted.sequence == 1


def test_an_older_assignment_is_an_alarm_and_changes_nothing(device):
    device.room.take_assignment(device.assignment(5))
    device.room.take_assignment(device.assignment(4, slots={}))
    assert device.alarms == ["old-assignment"]
    assert device.room.accepted.accepted.sequence == 5


def test_an_older_assignment_that_the_broker_had_kept_is_refused_and_at_first_no_alarm(device):
    device.room.take_assignment(device.assignment(5))
    older = device.assignment(4, slots={})
    for _ in range(2):
        device.room.take_assignment(older, retained=True)
    assert device.alarms == []
    device.room.take_assignment(older, retained=True)
    assert device.alarms == ["old-assignment"]
    assert device.room.accepted.accepted.sequence == 5
    device.room.take_assignment(device.assignment(6))
    device.room.take_assignment(older, retained=True)
    assert device.alarms == ["old-assignment"]


def test_a_manifest_whose_answer_was_lost_to_a_full_disk_is_asked_for_again(tmp_path, device):
    blocked = tmp_path / "state" / f"{ACCEPTED}.new"
    blocked.mkdir(parents=True)
    with pytest.raises(StoreError):
        device.room.take_assignment(device.assignment())
    device.room.want_manifest(assign(make_release()))
    request = device.asked[-1]
    for piece in split_file(bytes.fromhex(request.id), encode(MetaBundle(files={}))):
        device.room.take_piece(piece)
    with pytest.raises(StoreError):
        device.room.refreshed(
            Finished(ticket="refresh", kind="refresh", answer=AgentError("it was killed"))
        )
    blocked.rmdir()
    device.room.raise_wishes()
    device.wait(20.0)
    again = device.asked[-1]
    assert isinstance(again, MetaRequest)
    assert again.id != request.id
    assert again.targets == request.targets
    assert device.wishes


def test_an_accepted_assignment_that_ran_out_updates_nothing_more(device):
    device.room.take_assignment(device.assignment(expires_ms=NOW_MS - 1))
    assert device.wishes == [("motion", assign(make_release()))]
    device.room.ask_fresh()
    device.room.take_fresh(fresh(device, device.asked[-1].nonce))
    device.room.raise_wishes()
    assert device.wishes[-1] == ("motion", None)
    assert device.alarms == ["assignment-expired"]
    device.room.take_assignment(device.assignment(2))
    assert device.wishes[-1] == ("motion", assign(make_release()))


def test_signed_time_counts_even_where_its_floor_cannot_be_written(tmp_path, device):
    (tmp_path / "state" / "clock.json.new").mkdir(parents=True)
    device.room.ask_fresh()
    device.room.take_fresh(fresh(device, device.asked[-1].nonce))
    assert device.known == 1
    assert device.alarms == ["store"]


def test_a_full_disk_holds_an_assignment_until_there_is_room(tmp_path, device):
    blocked = tmp_path / "state" / f"{ACCEPTED}.new"
    blocked.mkdir(parents=True)  # nothing can be written there
    with pytest.raises(StoreError):
        device.room.take_assignment(device.assignment())
    assert device.wishes == []
    blocked.rmdir()
    device.room.raise_wishes()
    assert device.wishes[0][0] == "motion"


def test_a_director_of_a_new_epoch_is_believed_after_the_metadata_names_it(device):
    key = SigningKey.generate()
    new = device.assignment(1, director_epoch=2, key=key)
    device.room.take_assignment(new)
    assert device.wishes == []
    device.wait(0.0)
    authority = device.fleet.repository.authority()
    promised = msgspec.structs.replace(
        authority, director_epoch=2, director_keys=(bytes(key.verify_key).hex(),)
    )
    device.fleet.publish({AUTHORITY_TARGET: encode(promised)}, now=NOW + timedelta(seconds=1))
    device.serve()
    assert device.room.authority.director_epoch == 2
    assert device.wishes == [("motion", assign(make_release()))]
    assert device.alarms == []


def test_a_stranger_costs_one_refresh_in_ten_seconds_however_much_it_says(device):
    for sequence in range(1, 30):
        device.room.take_assignment(device.assignment(sequence, key=SigningKey.generate()))
    device.wait(0.0)
    assert len(device.asked) == 1
    device.serve()
    assert set(device.alarms) == {"forged-document"}
    device.room.take_assignment(device.assignment(99, key=SigningKey.generate()))
    device.wait(0.0)
    assert len(device.asked) == 1
    device.wait(10.0)
    assert len(device.asked) == 2
    assert device.wishes == []


def test_metadata_that_arrives_while_a_bundle_is_verified_is_asked_for_again_after(device):
    release = make_release()
    device.fleet.publish_release(release)
    ends: list[object] = []
    device.room.want_manifest(assign(release))
    asked = [r for r in device.asked if isinstance(r, MetaRequest)][-1]
    by_hand = device.fleet.repository.bundle(0, ())
    assert device.room.verify(by_hand, (), ends.append)
    content = encode(MetaBundle(files=device.fleet.repository.bundle(asked.root, asked.targets)))
    for piece in split_file(bytes.fromhex(asked.id), content, 1000):
        device.room.take_piece(piece)
    assert len(device.jobs) == 1, "two children verify from the same trust; the later one wins"
    result = refresh(device.jobs.pop())
    device.room.refreshed(
        Finished(ticket="refresh", kind="refresh", answer=RefreshAnswer(result=result))
    )
    assert len(ends) == 1
    assert device.manifests == []
    device.serve()
    assert len(device.manifests) == 1


def test_a_manifest_comes_by_way_of_the_offline_signed_targets(device):
    release = make_release(7)
    device.room.want_manifest(assign(release))
    device.fleet.publish_release(release)
    device.serve()
    assert device.manifests == [encode_release(release)[0]]


def test_a_manifest_that_is_not_among_the_targets_is_a_failure_with_a_sentence(device):
    device.room.want_manifest(assign(make_release(7)))
    device.serve()
    assert device.manifests == []
    assert len(device.failures) == 1
    assert "models/motion/v7.json" in str(device.failures[0])


def test_metadata_that_does_not_come_is_asked_for_with_growing_patience(device):
    device.room.refresh()
    for wait, asked in ((9.9, 1), (0.1, 2), (19.9, 2), (0.1, 3), (39.9, 3), (0.1, 4)):
        device.wait(wait)
        assert len(device.asked) == asked
    device.room.connected()
    assert isinstance(device.asked[-1], MetaRequest)


def test_pieces_of_another_request_are_ignored(device):
    device.room.refresh()
    for piece in split_file(bytes(8), encode(MetaBundle(files={}))):
        device.room.take_piece(piece)
    assert device.jobs == []


def test_a_bundle_that_is_none_is_an_alarm(device):
    device.room.refresh()
    request = device.asked[-1]
    assert isinstance(request, MetaRequest)
    for piece in split_file(bytes.fromhex(request.id), b"not JSON"):
        device.room.take_piece(piece)
    assert device.alarms == ["malformed"]


def test_a_newer_root_is_on_the_medium_although_the_rest_of_its_bundle_was_refused(device):
    device.room.take_assignment(device.assignment(key=SigningKey(b"s" * 32)))
    device.wait(0.0)
    request = next(r for r in device.asked if isinstance(r, MetaRequest))
    device.fleet.rotate()
    device.fleet.reopen()
    files = device.fleet.repository.bundle(request.root, ())
    del files["timestamp.json"]
    for piece in split_file(bytes.fromhex(request.id), encode(MetaBundle(files=files)), 1000):
        device.room.take_piece(piece)
    result = refresh(device.jobs.pop())
    device.room.refreshed(
        Finished(ticket="refresh", kind="refresh", answer=RefreshAnswer(result=result))
    )
    saved = load(device.disk)
    assert saved is not None
    assert saved.root_version == 2
    assert "metadata-missing" in device.alarms
    device.room.take_assignment(device.assignment(2, key=SigningKey(b"s" * 32)))
    device.wait(10.0)
    assert [r.root for r in device.asked if isinstance(r, MetaRequest)] == [1, 2]


def test_a_child_that_dies_leaves_the_trust_and_fails_what_waited(device):
    device.room.want_manifest(assign(make_release(7)))
    request = device.asked[-1]
    assert isinstance(request, MetaRequest)
    files = device.fleet.repository.bundle(request.root, request.targets)
    for piece in split_file(bytes.fromhex(request.id), encode(MetaBundle(files=files))):
        device.room.take_piece(piece)
    killed = AgentError("the refresh worker was killed by SIGKILL")
    device.room.refreshed(Finished(ticket="refresh", kind="refresh", answer=killed))
    assert device.failures == [killed]
    assert device.room.authority.director_epoch == 1


def fresh_of(device: Device, nonce: str, **changes: object) -> Fresh:
    plain = Fresh(
        device=DEVICE,
        nonce=nonce,
        director_epoch=1,
        sequence=0,
        digest=None,
        now_ms=NOW_MS + 5000,
    )
    return msgspec.structs.replace(plain, **changes)


def fresh(device: Device, nonce: str, key: Ed25519Signer | None = None, **changes: object) -> bytes:
    said = fresh_of(device, nonce, **changes)
    signer = key or device.fleet.online.director
    return sign_document(signer.signing, FRESH.at(DEVICE).logical, said)


def test_signed_time_is_asked_until_it_comes_and_then_rarely(device):
    device.room.ask_fresh()
    device.wait(10.0)
    request = device.asked[-1]
    assert len(device.asked) == 2
    assert isinstance(request, FreshRequest)
    device.room.take_fresh(fresh(device, request.nonce))
    device.wait(999.0)
    assert len(device.asked) == 2
    device.wait(1.0)
    assert len(device.asked) == 3
    assert device.alarms == []


@pytest.mark.parametrize("year", [1970, 2099])
def test_a_device_with_a_wrong_clock_works_once_it_has_signed_time(tmp_path, year):
    fleet = SignedFleet(tmp_path / "fleet")
    wall = (year - 1970) * 365.25 * 86_400
    device = Device(fleet, Disk(tmp_path / "state"), wall=wall)
    release = make_release()
    fleet.publish_release(release)
    device.room.take_assignment(device.assignment())
    device.room.want_manifest(assign(release))
    device.serve()
    assert bool(device.manifests) == (year == 1970)  # 2099: expired, as far as it knows
    device.room.ask_fresh()
    request = device.asked[-1]
    assert isinstance(request, FreshRequest)
    device.room.take_fresh(fresh(device, request.nonce))
    assert device.known == 1
    device.room.want_manifest(assign(release))
    device.serve()
    assert device.manifests[-1] == encode_release(release)[0]
    device.room.take_assignment(device.assignment(2, expires_ms=NOW_MS + 1))
    assert device.alarms[-1] == "assignment-expired"


def test_signed_time_for_another_nonce_is_an_alarm(device):
    device.room.ask_fresh()
    device.room.take_fresh(fresh(device, "ab" * 16))
    assert device.alarms == ["wrong-nonce"]


def test_signed_time_that_comes_later_than_the_next_question_is_believed(device):
    device.room.ask_fresh()
    late = fresh(device, device.asked[-1].nonce)
    for _ in range(3):
        device.wait(10.0)
    device.room.take_fresh(late)
    assert (device.known, device.alarms, len(device.asked)) == (1, [], 4)
    device.wait(999.0)
    assert len(device.asked) == 4


def test_an_answer_to_a_question_that_was_closed_meanwhile_is_no_alarm(device):
    device.room.ask_fresh()
    for _ in range(5):  # more than are open at once
        device.wait(10.0)
    evicted, closed, answered = (device.asked[n].nonce for n in (0, -2, -1))
    device.room.take_fresh(fresh(device, answered))
    device.room.ask_fresh()
    for nonce in (closed, evicted):
        device.room.take_fresh(fresh(device, nonce))
    assert device.alarms == []


@pytest.mark.parametrize("nonce", ["closed", "answered"])
def test_a_second_answer_to_a_closed_question_is_an_alarm(device, nonce):
    device.room.ask_fresh()
    closed = device.asked[-1].nonce
    device.wait(10.0)
    said = {"closed": fresh(device, closed), "answered": fresh(device, device.asked[-1].nonce)}
    device.room.take_fresh(said["answered"])
    device.room.ask_fresh()
    if nonce == "closed":
        device.room.take_fresh(said[nonce])
    device.room.take_fresh(said[nonce])
    assert device.alarms == ["wrong-nonce"]


@pytest.mark.parametrize("said_ms", [0, NOW_MS + 3_000_000_000_000, 2**53])
def test_a_device_whose_time_a_thief_set_learns_the_next_director_and_the_time(device, said_ms):
    thief, release = device.fleet.online.director, make_release()
    device.room.ask_fresh()
    lie = msgspec.structs.replace(
        fresh_of(device, device.asked[-1].nonce), now_ms=said_ms, root=0, targets=0
    )
    device.room.take_fresh(sign_document(thief.signing, FRESH.at(DEVICE).logical, lie))
    assert device.known == 1
    new = Ed25519Signer.generate()
    held = device.fleet.repository.authority()
    device.fleet.publish_release(release)
    device.fleet.publish({
        AUTHORITY_TARGET: encode(
            msgspec.structs.replace(held, director_epoch=2, director_keys=(new.public_hex,))
        )
    })  # fmt: skip
    device.room.refresh()
    device.serve()
    device.room.take_fresh(fresh(device, device.asked[-1].nonce, new, director_epoch=2))
    device.room.want_manifest(assign(release))
    device.serve()
    assert device.manifests[-1] == encode_release(release)[0]
    device.room.take_assignment(
        device.assignment(1, key=new.signing, director_epoch=2, slots={"motion": assign(release)})
    )
    assert device.wishes[-1] == ("motion", assign(release))


def test_bogus_signed_time_neither_silences_the_true_one_nor_floods_us_with_alarms(device):
    device.room.ask_fresh()
    true = fresh(device, device.asked[-1].nonce)
    for _ in range(5):
        device.room.take_fresh(b"{")
        device.room.take_fresh(fresh(device, "ab" * 16))
    device.room.take_fresh(true)
    assert (device.known, len(device.alarms)) == (1, 1)


def test_a_signed_time_that_comes_twice_is_taken_once_and_is_no_alarm(device):
    device.room.ask_fresh()
    request = device.asked[-1]
    assert isinstance(request, FreshRequest)
    for _ in range(2):
        device.room.take_fresh(fresh(device, request.nonce))
    assert (device.known, device.alarms) == (1, [])


def test_a_clock_that_nobody_signed_makes_no_assignment_expire(tmp_path):
    fleet = SignedFleet(tmp_path / "fleet")
    device = Device(fleet, Disk(tmp_path / "state"), wall=(2099 - 1970) * 365.25 * 86_400)
    device.room.take_assignment(device.assignment())
    assert device.wishes == [("motion", assign(make_release()))]
    assert device.alarms == []


def test_trust_is_on_the_medium_before_anything_follows_from_it(tmp_path):
    fleet = SignedFleet(tmp_path / "fleet")
    release = make_release(7)
    fleet.publish_release(release)
    device = Device(fleet, FaultyDisk(tmp_path / "state", good=0))
    device.room.want_manifest(assign(release))
    with pytest.raises(PowerCutError):
        device.serve()
    assert device.manifests == []
    whole = Device(fleet, Disk(tmp_path / "whole"))
    whole.room.want_manifest(assign(release))
    whole.serve()
    assert trust.load(whole.disk) == whole.room._refreshing._state
    assert whole.manifests == [encode_release(release)[0]]


def test_the_accepted_assignment_of_version_1_is_read_for_ever(tmp_path):
    disk = Disk(tmp_path)
    disk.write(ACCEPTED, FIXTURE.read_bytes())
    read = decode(AcceptedAssignment, FIXTURE.read_bytes())
    assert read.accepted.sequence == 12
    assert read.slots["motion"].counter == 3
    assert read.keys == {}
    assert decode(AcceptedAssignment, encode(read)) == read


def test_an_accepted_assignment_of_a_newer_version_is_refused_untouched(device, tmp_path):
    newer = b'{"v": 2, "future": true}'
    device.disk.write(ACCEPTED, newer)
    with pytest.raises(NewerStateError):
        device.boot()
    assert device.disk.read(ACCEPTED) == newer


def test_an_authority_is_what_was_verified_and_not_what_is_claimed(device):
    assert isinstance(device.room.authority, Authority)
    assert device.room.authority == device.fleet.repository.authority()


def with_another_director(device: Device) -> SigningKey:
    """Give the fleet another director, and return its key; the device has yet to learn of it."""
    key, held = SigningKey.generate(), device.fleet.repository.authority()
    authority = msgspec.structs.replace(
        held,
        director_keys=(bytes(key.verify_key).hex(),),
        director_epoch=held.director_epoch + 1,
    )
    device.fleet.publish({AUTHORITY_TARGET: encode(authority)})
    return key


def test_several_assignments_of_a_new_director_are_judged_after_one_refresh(device):
    key = with_another_director(device)
    for sequence in (1, 2, 3):
        device.room.take_assignment(device.assignment(sequence, key=key, director_epoch=2))
    device.wait(0.0)
    device.serve()
    assert device.alarms == []
    assert device.room.accepted is not None
    assert device.room.accepted.accepted.order == (2, 3)


def ack_by(key: SigningKey) -> bytes:
    said = Ack(device=DEVICE, boot="1-00112233445566ff", sequence=3)
    return sign_document(key, ACK.at(DEVICE).logical, said)


def test_acknowledgements_of_a_new_director_are_explained_by_metadata_before_an_alarm(device):
    key = with_another_director(device)
    for _ in range(3):
        assert device.room.take_ack(ack_by(key)) is None
    assert device.alarms == []
    device.wait(0.0)
    device.serve()
    assert device.room.take_ack(ack_by(key)) is not None
    assert device.alarms == []


def test_an_acknowledgement_that_newer_metadata_does_not_explain_is_an_alarm(device):
    thief = SigningKey.generate()
    assert device.room.take_ack(ack_by(thief)) is None
    device.wait(0.0)
    device.serve()
    assert device.room.take_ack(ack_by(thief)) is None
    assert device.alarms == ["forged-document"]


def test_keys_of_earlier_assignments_are_kept_as_far_as_there_is_room():
    read = decode(AcceptedAssignment, FIXTURE.read_bytes())
    before = msgspec.structs.replace(read, keys={f"{n:064x}": b"old" for n in range(MAX_KEPT_KEYS)})
    new = {f"{0:064x}": b"new", "ab" * 32: b"new"}
    kept = keys_to_keep(new, before)
    assert list(kept)[:2] == list(new)
    assert kept[f"{0:064x}"] == b"new"
    assert len(kept) == MAX_KEPT_KEYS
    assert keys_to_keep(new, None) == new


def test_an_assignment_that_does_not_come_is_asked_for_and_then_an_alarm(device):
    def asked() -> FreshRequest:
        return [r for r in device.asked if isinstance(r, FreshRequest)][-1]

    def told(sequence: int, payload: bytes) -> None:
        digest = sha256(payload).hexdigest()
        said = Fresh(
            device=DEVICE,
            nonce=asked().nonce,
            director_epoch=1,
            sequence=sequence,
            digest=digest,
            now_ms=NOW_MS,
        )
        key = device.fleet.online.director.signing
        device.room.take_fresh(sign_document(key, FRESH.at(DEVICE).logical, said))

    first, newest = device.assignment(1), device.assignment(2)
    device.room.take_assignment(first)
    device.room.ask_fresh()
    assert asked().holds == sha256(first).hexdigest()
    told(2, newest)
    assert device.alarms == []  # it may be on its way
    count = len(device.asked)
    device.wait(10.0)
    assert len(device.asked) > count  # and is asked for soon, not after the usual time
    told(2, newest)
    assert device.alarms == ["assignment-withheld"]
    device.room.take_assignment(newest)
    device.wait(1000.0)
    told(2, newest)
    assert device.alarms == ["assignment-withheld"]
    assert asked().holds == sha256(newest).hexdigest()


def test_only_what_a_refresh_of_this_life_listed_is_vouched_for(device):
    device.fleet.publish_release(make_release(1))
    digest = assign(make_release(1)).digest
    assert not device.room.vouches(digest)
    device.room.want_manifest(assign(make_release(1)))
    device.serve()
    assert device.room.vouches(digest)
    device.fleet.publish(removals=[make_release(1).target])
    device.room.want_manifest(assign(make_release(1)))
    device.serve()
    assert not device.room.vouches(digest)
    assert device.alarms == ["unpublished"]
    assert not device.boot().vouches(digest)
