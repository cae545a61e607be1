"""Rows 2 to 12, 24 and 25: what a liar says about the offline keys, through a real refresh."""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from hashlib import sha256

import msgspec
import pytest
from tuf.api.metadata import Metadata, MetaFile, Root, Signature, Snapshot, Targets, Timestamp

from agent.contract.authority import AUTHORITY_TARGET, Authority
from agent.contract.belief import believe_assignment
from agent.contract.codec import decode, encode
from agent.contract.envelope import sign_document
from agent.contract.keys import Ed25519Key, Ed25519Signer
from agent.contract.messages import Assigned, MetaRequest
from agent.contract.topics import ASSIGNMENT
from agent.disk import Disk
from agent.errors import (
    CorruptError,
    ExpiredError,
    MalformedError,
    RollbackError,
    StoreError,
    UnsignedError,
)
from agent.update import trust
from agent.update.store import Store
from agent.update.trust import NotRefreshed, TrustState
from tests.signed_fleet import (
    NOW,
    NOW_MS,
    SignedFleet,
    advance,
    make_assignment,
    make_release,
    pinned,
    run,
)

DEVICE = "d-aaaaaaaaaaaaaaaa"
RELEASE = make_release(1)
Files = dict[str, bytes]


@pytest.fixture
def fleet(tmp_path) -> SignedFleet:
    made = SignedFleet(tmp_path / "fleet")
    made.publish_release(RELEASE)
    return made


@pytest.fixture
def old(fleet, tmp_path) -> SignedFleet:
    """The repository as it was; ``fleet`` has gone on to release 2."""
    frozen = fleet.copy(tmp_path / "old")
    fleet.publish_release(make_release(2))
    return frozen


def bundle(fleet: SignedFleet, root: int = 0) -> Files:
    fleet.reopen()
    return fleet.repository.bundle(root, ())


def up_to_date(fleet: SignedFleet) -> TrustState:
    return advance(pinned(fleet), bundle(fleet)).state


def named(version: int, content: bytes) -> MetaFile:
    return MetaFile(version, len(content), {"sha256": sha256(content).hexdigest()})


def next_root(fleet: SignedFleet, change: Callable[[Root], None], *signers: int) -> bytes:
    """The next root, changed and signed by some of the three root keys."""
    held = Metadata[Root].from_bytes((fleet.home / "repository/metadata/1.root.json").read_bytes())
    held.signed.version = 2
    change(held.signed)
    held.signatures.clear()
    for index in signers or (0, 1):
        held.sign(fleet.root_keys()[index], append=True)
    return held.to_bytes()


# 2: replay and rollback


def test_attack_02_a_replayed_old_repository(fleet, old):
    with pytest.raises(RollbackError):
        advance(up_to_date(fleet), bundle(old, 1))


def test_attack_02_old_targets_in_a_new_snapshot(fleet, old):
    state, honest = up_to_date(fleet), bundle(fleet, 1)
    past = Metadata[Targets].from_bytes(bundle(old)["targets.json"]).signed
    with pytest.raises(RollbackError):
        advance(state, fleet.forge(honest, targets=past))


# 3: a frozen repository


def test_attack_03_a_frozen_repository_installs_nothing_and_ends_nothing(fleet):
    files = bundle(fleet)
    state = advance(pinned(fleet), files).state
    late = NOW + timedelta(days=30)
    result = run(state, bundle(fleet, 1), (RELEASE.target,), late)
    assert isinstance(result, NotRefreshed)
    assert (result.refusal.code, result.state) == ("metadata-expired", None)
    document = sign_document(
        fleet.online.director.signing, ASSIGNMENT.at(DEVICE).logical, make_assignment(DEVICE)
    )
    wish = {"authority": state.who_directs(), "fleet": "demo", "device": DEVICE}
    accepted = believe_assignment(document, **wish, accepted=None, now_ms=NOW_MS).accepted
    late_ms = int(late.timestamp() * 1000)
    assert believe_assignment(document, **wish, accepted=accepted, now_ms=late_ms).repeated
    with pytest.raises(ExpiredError):
        believe_assignment(document, **wish, accepted=None, now_ms=late_ms)


# 4: parts of two repositories


@pytest.mark.parametrize("part", ["timestamp.json", "snapshot.json", "targets.json"])
def test_attack_04_mix_and_match(fleet, old, part):
    files = {**bundle(fleet), part: bundle(old)[part]}
    result = run(pinned(fleet), files)
    assert isinstance(result, NotRefreshed)
    assert result.refusal.code in {"metadata-mixed", "metadata-rollback"}


# 5: an emptied cache


@pytest.mark.parametrize("torn", ["missing", "empty", "half"])
def test_attack_05_an_emptied_cache_and_then_an_old_repository(fleet, old, torn):
    state = up_to_date(fleet)
    cut = {"missing": 0, "empty": 0, "half": 300}[torn]
    held = {} if torn == "missing" else {n: c[:cut] for n, c in state.metadata.items()}
    with pytest.raises(RollbackError, match="was accepted"):
        advance(msgspec.structs.replace(state, metadata=held), bundle(old, 1))


# 6: fast forward


def test_attack_06_a_timestamp_that_raced_ahead_is_recovered_by_rotating_its_key(fleet):
    honest = bundle(fleet)
    state = advance(pinned(fleet), fleet.forge(honest, ahead=10**6)).state
    with pytest.raises(RollbackError):
        advance(state, honest)
    timestamp, snapshot = Ed25519Signer.generate(), Ed25519Signer.generate()
    root = fleet.rotate(timestamp=[timestamp], snapshot=[snapshot])
    fleet.online = replace(fleet.online, timestamp=timestamp, snapshot=snapshot)
    resigned = {**fleet.forge(honest), "2.root.json": root}
    assert advance(state, resigned).state.marks["timestamp"].version < 10


# 7: stolen online keys


def test_attack_07_online_keys_sign_no_release(fleet):
    targets = Metadata[Targets].from_bytes(fleet.repository.targets_metadata()).signed
    targets.version += 1
    targets.targets.pop(RELEASE.target)
    for thief in (fleet.online.snapshot, fleet.online.timestamp, fleet.online.director):
        files = fleet.forge(bundle(fleet), targets=targets, targets_signers=[thief])
        with pytest.raises(UnsignedError):
            advance(pinned(fleet), files)


def test_attack_07_online_keys_name_no_other_director(fleet):
    thief = Ed25519Signer.generate()
    held = decode(Authority, bundle(fleet)[AUTHORITY_TARGET])
    mine = msgspec.structs.replace(held, director_keys=(thief.public_hex,))
    with pytest.raises(CorruptError, match="is not the one that the offline keys signed"):
        advance(pinned(fleet), {**fleet.forge(bundle(fleet)), AUTHORITY_TARGET: encode(mine)})


# 8: root


def test_attack_08_one_stolen_root_key(fleet):
    evil = Ed25519Signer.generate()
    files = bundle(fleet)
    for signers in ((0,), (2,)):
        files["2.root.json"] = fleet.rotate(signers=signers, targets=[evil])
        with pytest.raises(UnsignedError):
            advance(pinned(fleet), files)


def test_attack_08_a_root_signed_twice_by_one_key(fleet):
    files = bundle(fleet)
    root = json_of(next_root(fleet, lambda _root: None, 0))
    root["signatures"] *= 2
    files["2.root.json"] = msgspec.json.encode(root)
    result = run(pinned(fleet), files)
    assert isinstance(result, NotRefreshed)
    assert result.refusal.code in {"metadata-unsigned", "metadata-malformed"}


def json_of(content: bytes):
    return msgspec.json.decode(content)


def test_attack_08_a_skipped_root_version(fleet):
    fleet.rotate(2)
    third = fleet.rotate(3)
    files = bundle(fleet)
    del files["2.root.json"]
    assert advance(pinned(fleet), files).state.root_version == 1
    with pytest.raises(RollbackError):
        advance(pinned(fleet), {**files, "2.root.json": third})


# 9: revoked keys


def test_attack_09_a_revoked_targets_key(fleet):
    first, second = fleet.targets_keys
    files = bundle(fleet)
    assert advance(pinned(fleet), files).state.root_version == 1
    files["2.root.json"] = fleet.rotate(targets=[second])
    with pytest.raises(UnsignedError):
        advance(pinned(fleet), files)
    targets = Metadata[Targets].from_bytes(files["targets.json"]).signed
    targets.version += 1
    with pytest.raises(UnsignedError):
        advance(pinned(fleet), fleet.forge(files, targets=targets, targets_signers=[first]))
    news = fleet.forge(files, targets=targets, targets_signers=[second])
    assert advance(pinned(fleet), news).state.root_version == 2


def test_attack_09_a_revoked_director_key(fleet):
    state, thief = up_to_date(fleet), fleet.online.director
    new = Ed25519Signer.generate()
    held = state.who_directs()
    after = msgspec.structs.replace(held, director_epoch=2, director_keys=(new.public_hex,))
    fleet.publish({AUTHORITY_TARGET: encode(after)})
    believed = advance(state, bundle(fleet, 1)).state.who_directs()
    said = make_assignment(DEVICE, 2**53, director_epoch=2)
    document = sign_document(thief.signing, ASSIGNMENT.at(DEVICE).logical, said)
    with pytest.raises(UnsignedError):
        believe_assignment(
            document, authority=believed, fleet="demo", device=DEVICE, accepted=None, now_ms=NOW_MS
        )


# 10: thresholds and key types


def test_attack_10_a_threshold_of_nothing(fleet):
    files = bundle(fleet)
    root = json_of(next_root(fleet, lambda _root: None))
    root["signed"]["roles"]["targets"]["threshold"] = 0
    files["2.root.json"] = msgspec.json.encode(root)
    with pytest.raises(MalformedError):
        advance(pinned(fleet), files)


def test_attack_10_one_public_key_under_two_ids(fleet):
    stolen = fleet.targets_keys[0].public_key
    twin = Ed25519Key("f" * 64, "ed25519", "ed25519", dict(stolen.keyval))

    def change(root: Root) -> None:
        for keyid in tuple(root.roles["targets"].keyids):
            root.revoke_key(keyid, "targets")
        root.add_key(stolen, "targets")
        root.add_key(twin, "targets")
        root.roles["targets"].threshold = 2

    held = Metadata[Targets].from_bytes(fleet.repository.targets_metadata())
    one = held.signatures[stolen.keyid]
    held.signatures["f" * 64] = Signature("f" * 64, one.signature)
    snapshot = Metadata[Snapshot].from_bytes(bundle(fleet)["snapshot.json"])
    timestamp = Metadata[Timestamp].from_bytes(bundle(fleet)["timestamp.json"])
    snapshot.signed.meta["targets.json"] = named(held.signed.version, held.to_bytes())
    snapshot.sign(fleet.online.snapshot)
    timestamp.signed.snapshot_meta = named(snapshot.signed.version, snapshot.to_bytes())
    timestamp.sign(fleet.online.timestamp)
    files = {
        **bundle(fleet),
        "2.root.json": next_root(fleet, change),
        "targets.json": held.to_bytes(),
        "snapshot.json": snapshot.to_bytes(),
        "timestamp.json": timestamp.to_bytes(),
    }
    with pytest.raises(UnsignedError, match="more than one key id"):
        advance(pinned(fleet), files)


@pytest.mark.parametrize(
    ("keytype", "scheme"), [("rsa", "rsassa-pss-sha256"), ("ecdsa", "ecdsa-sha2-nistp256")]
)
def test_attack_10_another_kind_of_key(fleet, keytype, scheme):
    files = bundle(fleet)
    root = json_of(next_root(fleet, lambda _root: None))
    next(iter(root["signed"]["keys"].values())).update(keytype=keytype, scheme=scheme)
    files["2.root.json"] = msgspec.json.encode(root)
    with pytest.raises(MalformedError):
        advance(pinned(fleet), files)


# 11: another root in the place of ours


def test_attack_11_a_swapped_cached_root(fleet, tmp_path):
    evil = SignedFleet(tmp_path / "evil")
    theirs = bundle(evil)
    state = up_to_date(fleet)
    poisoned = msgspec.structs.replace(
        state,
        metadata={
            "root": theirs["1.root.json"],
            **{r: theirs[f"{r}.json"] for r in state.metadata},
        },
    )
    with pytest.raises(UnsignedError):
        advance(poisoned, theirs)
    with pytest.raises(UnsignedError):
        advance(poisoned, bundle(evil, 1))
    with pytest.raises(CorruptError, match="pinned digest"):
        trust.pin_among(theirs, state.pinned)


# 12: paths in names


@pytest.mark.parametrize(
    "name", ["../evil.json", "models/../../evil.json", "/etc/passwd", "models//v1.json", "a\0b"]
)
def test_attack_12_a_path_in_a_target_name(fleet, tmp_path, name):
    for kind, said in (
        (Assigned, {"target": name, "digest": "0" * 64, "counter": 1}),
        (MetaRequest, {"v": 1, "id": "0" * 16, "root": 0, "targets": [name]}),
    ):
        with pytest.raises(MalformedError):
            decode(kind, msgspec.json.encode(said))
    before = sorted(tmp_path.rglob("*"))
    advance(pinned(fleet), {**bundle(fleet), name: b"evil"})
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("digest", ["../identity.json", "0" * 63 + "/", ".." + "0" * 62])
def test_attack_12_a_path_in_a_digest(tmp_path, digest):
    with pytest.raises((MalformedError, StoreError)):
        Store(Disk(tmp_path)).path(digest)


# 24: a device without trust


def test_attack_24_without_trust_keys_everything_is_refused(fleet, tmp_path):
    assert trust.load(Disk(tmp_path / "empty")) is None
    fresh = pinned(fleet)
    with pytest.raises(UnsignedError, match="no authority"):
        fresh.who_directs()
    nobody = {"fleet": "demo", "director_epoch": 1, "director_keys": [], "enrolment_keys": []}
    with pytest.raises(MalformedError):
        decode(Authority, msgspec.json.encode(nobody))
    for state in (b"", b"{", b'{"v":1}'):
        Disk(tmp_path).replace(trust.TRUST, state)
        with pytest.raises(StoreError):
            trust.load(Disk(tmp_path))


# 25: many signatures


def test_attack_25_seventy_bogus_signatures_are_not_seventy_verifications(fleet, monkeypatch):
    counted = []
    verify = Ed25519Key.verify_signature

    def count(key, signature, content):
        counted.append(signature.keyid)
        verify(key, signature, content)

    monkeypatch.setattr(Ed25519Key, "verify_signature", count)
    files = bundle(fleet)
    run(pinned(fleet), files)
    honest = len(counted)
    counted.clear()
    timestamp = json_of(files["timestamp.json"])
    timestamp["signatures"] = [
        {"keyid": f"{number:064x}", "sig": "00" * 64} for number in range(70)
    ]
    result = run(pinned(fleet), {**files, "timestamp.json": msgspec.json.encode(timestamp)})
    assert isinstance(result, NotRefreshed)
    assert result.refusal.code == "metadata-unsigned"
    assert len(counted) <= honest
