"""The gaps that python-tuf leaves open, and the attacks that a refresh must refuse."""

import json
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest
from tuf.api.metadata import Key, Metadata, Root, TargetFile, Targets
from tuf.ngclient import Updater

from agent.contract.authority import AUTHORITY_TARGET
from agent.contract.codec import decode, encode
from agent.contract.keys import Ed25519Key, Ed25519Signer
from agent.contract.manifest import encode_release
from agent.errors import (
    AgentError,
    CorruptError,
    ExpiredError,
    MalformedError,
    RollbackError,
    TrustError,
    UnsignedError,
)
from agent.update import refresh as refresh_module
from agent.update import walk as walk_module
from agent.update.trust import (
    MAX_JOB_BYTES,
    NotRefreshed,
    RefreshAnswer,
    Refreshed,
    RefreshJob,
    believe,
    pin,
    pin_among,
)
from tests.signed_fleet import NOW, NOW_MS, SignedFleet, advance, make_release, pinned, run

RELEASE = make_release(1)


@pytest.fixture
def fleet(tmp_path: Path) -> SignedFleet:
    made = SignedFleet(tmp_path / "fleet")
    made.publish_release(RELEASE)
    return made


def code_of(fleet: SignedFleet, files: dict[str, bytes], **more: object) -> str:
    result = run(pinned(fleet), files, **more)  # type: ignore[arg-type]
    return result.refusal.code if isinstance(result, NotRefreshed) else "believed"


def test_a_pinned_device_believes_an_honest_bundle(fleet):
    news = advance(pinned(fleet), fleet.repository.bundle(0, [RELEASE.target]), (RELEASE.target,))
    assert news.targets == {RELEASE.target: encode_release(RELEASE)[0]}
    assert news.refused == {}
    assert news.state.who_directs() == fleet.repository.authority()
    assert {role: mark.version for role, mark in news.state.marks.items()} == {
        "root": 1,
        "timestamp": 2,
        "snapshot": 2,
        "targets": 2,
    }


def test_a_second_refresh_needs_only_what_is_new(fleet):
    state = advance(pinned(fleet), fleet.repository.bundle(0, ())).state
    files = fleet.repository.bundle(state.root_version, ())
    assert "1.root.json" not in files
    assert advance(state, files).state == state


def test_unsigned_and_altered_targets_are_refused_one_by_one(fleet):
    files = fleet.repository.bundle(0, [RELEASE.target])
    files["models/motion/v9.json"] = b"{}"
    files[RELEASE.target] = files[RELEASE.target].replace(b"int8", b"int9")
    news = advance(pinned(fleet), files, (RELEASE.target, "models/motion/v9.json"))
    assert news.targets == {}
    assert {name: refusal.code for name, refusal in news.refused.items()} == {
        RELEASE.target: "target-corrupt",
        "models/motion/v9.json": "unpublished",
    }


# gap 1


def test_gap_1_an_older_repository_is_refused_although_every_cached_file_is_empty(fleet, tmp_path):
    old = fleet.copy(tmp_path / "old")
    fleet.publish_release(make_release(2))
    state = advance(pinned(fleet), fleet.repository.bundle(0, ())).state
    for torn in ({}, dict.fromkeys(state.metadata, b"")):
        emptied = type(state)(
            pinned=state.pinned,
            root=state.root,
            metadata=torn,
            marks=state.marks,
            authority=state.authority,
        )
        with pytest.raises(RollbackError, match="was accepted"):
            advance(emptied, old.repository.bundle(1, ()))
        assert advance(emptied, fleet.repository.bundle(1, ())).state.marks == state.marks


def test_gap_1_a_raced_ahead_timestamp_is_recovered_from_by_rotating_its_key(fleet):
    honest = fleet.repository.bundle(0, ())
    state = advance(pinned(fleet), fleet.forge(honest, ahead=10**6)).state
    assert state.marks["timestamp"].version == 10**6 + 2
    with pytest.raises(RollbackError):
        advance(state, honest)
    fresh_timestamp, fresh_snapshot = Ed25519Signer.generate(), Ed25519Signer.generate()
    fleet.rotate(timestamp=[fresh_timestamp], snapshot=[fresh_snapshot])
    fleet.online = type(fleet.online)(
        snapshot=fresh_snapshot,
        timestamp=fresh_timestamp,
        director=fleet.online.director,
        enrolment=fleet.online.enrolment,
    )
    resigned = fleet.forge(honest)
    resigned["2.root.json"] = (fleet.home / "repository/metadata/2.root.json").read_bytes()
    marks = advance(state, resigned).state.marks
    assert (marks["timestamp"].version, marks["root"].version) == (3, 2)


# gap 2


def test_gap_2_one_public_key_under_two_ids_does_not_meet_a_threshold_of_two(fleet):
    stolen = fleet.targets_keys[0]
    twin = Ed25519Key("f" * 64, "ed25519", "ed25519", dict(stolen.public_key.keyval))
    root: Metadata[Root] = Metadata[Root].from_bytes(fleet.repository.bundle(0, ())["1.root.json"])
    root.signed.version = 2
    for keyid in tuple(root.signed.roles["targets"].keyids):
        root.signed.revoke_key(keyid, "targets")
    root.signed.add_key(stolen.public_key, "targets")
    root.signed.add_key(twin, "targets")
    root.signed.roles["targets"].threshold = 2
    root.signatures.clear()
    for key in fleet.root_keys()[:2]:
        root.sign(key, append=True)
    targets: Metadata[Targets] = Metadata[Targets].from_bytes(fleet.repository.targets_metadata())
    targets.signed.version += 1
    targets.signatures.clear()
    targets.sign(stolen)
    honest = targets.signatures[stolen.public_key.keyid]
    targets.signatures["f" * 64] = type(honest)("f" * 64, honest.signature)
    files = fleet.forge(fleet.repository.bundle(0, ()))
    forged = _snapshotted(fleet, files, targets.to_bytes(), targets.signed.version)
    forged["2.root.json"] = root.to_bytes()
    with pytest.raises(UnsignedError, match="more than one key id"):
        advance(pinned(fleet), forged)


def _snapshotted(fleet, files, targets, version):
    from hashlib import sha256

    from tuf.api.metadata import MetaFile, Snapshot, Timestamp

    def name(number: int, content: bytes) -> MetaFile:
        return MetaFile(number, len(content), {"sha256": sha256(content).hexdigest()})

    snapshot = Metadata[Snapshot].from_bytes(files["snapshot.json"])
    snapshot.signed.meta["targets.json"] = name(version, targets)
    snapshot.sign(fleet.online.snapshot)
    timestamp = Metadata[Timestamp].from_bytes(files["timestamp.json"])
    timestamp.signed.snapshot_meta = name(snapshot.signed.version, snapshot.to_bytes())
    timestamp.sign(fleet.online.timestamp)
    return {
        **files,
        "targets.json": targets,
        "snapshot.json": snapshot.to_bytes(),
        "timestamp.json": timestamp.to_bytes(),
    }


# gap 3


def test_gap_3_another_fleets_root_is_not_believed_for_lying_in_the_bundle(fleet, tmp_path):
    evil = SignedFleet(tmp_path / "evil")
    evil.publish_release(make_release(1))
    with pytest.raises(UnsignedError):
        advance(pinned(fleet), evil.repository.bundle(0, ()))
    with pytest.raises(CorruptError, match="pinned digest"):
        pin_among(evil.repository.bundle(0, ()), pinned(fleet).pinned)


def test_gap_3_every_run_starts_from_the_root_we_hold(fleet, monkeypatch):
    given = []

    class Watched(Updater):
        def __init__(self, *args: object, bootstrap: bytes | None, **more: object) -> None:
            given.append(bootstrap)
            super().__init__(*args, bootstrap=bootstrap, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(walk_module, "Updater", Watched)
    advance(pinned(fleet), fleet.repository.bundle(0, ()))
    assert given == [pinned(fleet).root]


# gap 4


def test_gap_4_expiry_is_judged_by_the_given_time_not_by_the_system_clock(fleet):
    files = fleet.repository.bundle(0, ())
    advance(pinned(fleet), files, now=NOW + timedelta(days=6))
    for late in (NOW + timedelta(days=8), NOW.replace(year=2099)):
        with pytest.raises(ExpiredError):
            advance(pinned(fleet), files, now=late)
    job = RefreshJob(state=pinned(fleet), files=files, now_ms=2**53)
    assert isinstance(refresh_module.refresh(job), NotRefreshed)


def test_gap_4_python_tuf_still_keeps_its_time_where_we_set_it(fleet, tmp_path):
    updater = Updater(str(tmp_path), "x://y/", fetcher=None, bootstrap=pinned(fleet).root)
    assert updater._trusted_set.reference_time.tzinfo is not None
    assert "reference_time" in vars(updater._trusted_set)


# gap 5


def test_gap_5_targets_are_verified_in_memory_and_download_target_is_never_called(
    fleet, monkeypatch
):
    def refuse(*_args: object, **_more: object) -> None:
        raise AssertionError("download_target writes in place")

    monkeypatch.setattr(Updater, "download_target", refuse)
    files = fleet.repository.bundle(0, [RELEASE.target])
    assert advance(pinned(fleet), files, (RELEASE.target,)).targets
    files[RELEASE.target] += b" "
    assert (
        advance(pinned(fleet), files, (RELEASE.target,)).refused[RELEASE.target].code
        == "target-corrupt"
    )


def test_gap_5_a_target_without_a_sha_256_is_refused(fleet):
    targets = Metadata[Targets].from_bytes(fleet.repository.targets_metadata()).signed
    targets.version += 1
    targets.targets["models/weak.json"] = TargetFile.from_data("models/weak.json", b"x", ["md5"])
    files = fleet.forge(fleet.repository.bundle(0, ()), targets=targets)
    files["models/weak.json"] = b"x"
    news = advance(pinned(fleet), files, ("models/weak.json",))
    assert news.refused["models/weak.json"].code == "target-corrupt"


# gap 6


@pytest.mark.parametrize("lost", ["timestamp.json", "snapshot.json", "targets.json"])
def test_gap_6_a_bundle_without_a_file_ends_in_one_sentence(fleet, lost):
    files = fleet.repository.bundle(0, ())
    del files[lost]
    with pytest.raises(CorruptError, match=f"lacks {lost}"):
        advance(pinned(fleet), files)


def test_gap_6_the_search_for_newer_roots_ends_where_the_bundle_ends(fleet):
    fleet.rotate()
    fleet.reopen()
    news = advance(pinned(fleet), fleet.repository.bundle(0, ()))
    assert news.state.root_version == 2
    assert news.state.pinned == pinned(fleet).pinned


# gap 7


def test_gap_7_a_refresh_leaves_nothing_behind_and_reads_no_cache(fleet, tmp_path, monkeypatch):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    advance(pinned(fleet), fleet.repository.bundle(0, ()))
    assert list(scratch.iterdir()) == []


def test_gap_7_job_and_answer_survive_the_way_between_processes(fleet):
    job = RefreshJob(
        state=pinned(fleet), files=fleet.repository.bundle(0, ()), wanted=(), now_ms=NOW_MS
    )
    assert decode(RefreshJob, encode(job), limit=MAX_JOB_BYTES) == job
    answer = RefreshAnswer(result=refresh_module.refresh(job))
    assert decode(RefreshAnswer, encode(answer), limit=MAX_JOB_BYTES) == answer
    refused = RefreshAnswer(result=run(pinned(fleet), {}))
    back = decode(RefreshAnswer, encode(refused), limit=MAX_JOB_BYTES).result
    with pytest.raises(CorruptError, match=r"lacks timestamp\.json"):
        believe(back)


# gap 8


@pytest.mark.parametrize(
    ("keytype", "scheme"),
    [("rsa", "rsassa-pss-sha256"), ("ecdsa", "ecdsa-sha2-nistp256"), ("ed25519", "ed25519ph")],
)
def test_gap_8_a_root_with_any_other_kind_of_key_does_not_load(fleet, keytype, scheme):
    files = fleet.repository.bundle(0, ())
    root = json.loads(files["1.root.json"])
    root["signed"]["version"] = 2
    key = next(iter(root["signed"]["keys"].values()))
    key["keytype"], key["scheme"] = keytype, scheme
    files["2.root.json"] = json.dumps(root).encode()
    assert code_of(fleet, files) == "key-type"


def test_gap_8_only_one_spelling_of_a_public_key_loads():
    public = Ed25519Signer.generate().public_hex
    for wrong in (public.upper(), public + "\n", public[:-2], "0x" + public[2:], ""):
        if wrong != public:
            with pytest.raises(ValueError, match="hex digits"):
                Ed25519Key("a", "ed25519", "ed25519", {"public": wrong})


def test_gap_8_a_whole_refresh_works_where_cryptography_cannot_be_imported(fleet, tmp_path):
    job = RefreshJob(
        state=pinned(fleet),
        files=fleet.repository.bundle(0, [RELEASE.target]),
        wanted=(RELEASE.target,),
        now_ms=NOW_MS,
    )
    (tmp_path / "job").write_bytes(encode(job))
    program = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition('.')[0] in ('cryptography', 'fleet', 'flwr', 'onnx', 'sqlite_utils'):
            raise ImportError(name + ' is not on a device')
sys.meta_path.insert(0, Blocked())
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from agent.contract.codec import decode, encode
from agent.update.refresh import refresh
from agent.update.trust import RefreshAnswer, RefreshJob
job = decode(RefreshJob, Path(sys.argv[2]).read_bytes(), limit=10**7)
sys.stdout.buffer.write(encode(RefreshAnswer(result=refresh(job))))
assert not any(name.partition('.')[0] == 'cryptography' for name in sys.modules)
from agent.contract.keys import Ed25519Key
from securesystemslib.signer import KEY_FOR_TYPE_AND_SCHEME, SIGNER_FOR_URI_SCHEME
assert KEY_FOR_TYPE_AND_SCHEME == {('ed25519', 'ed25519'): Ed25519Key}
assert SIGNER_FOR_URI_SCHEME == {}
"""
    done = subprocess.run(
        [sys.executable, "-I", "-c", program, str(Path.cwd()), str(tmp_path / "job")],
        capture_output=True,
        check=True,
        timeout=60,
    )
    result = decode(RefreshAnswer, done.stdout, limit=MAX_JOB_BYTES).result
    assert isinstance(result, Refreshed)
    assert result.targets[RELEASE.target] == encode_release(RELEASE)[0]


# the attacks that python-tuf refuses, as our errors


def test_an_old_timestamp_is_a_rollback(fleet, tmp_path):
    old = fleet.copy(tmp_path / "old").repository.bundle(0, ())
    fleet.publish_release(make_release(2))
    state = advance(pinned(fleet), fleet.repository.bundle(0, ())).state
    with pytest.raises(RollbackError):
        advance(state, old)


def test_old_targets_under_a_new_snapshot_are_refused(fleet, tmp_path):
    old = fleet.copy(tmp_path / "old").repository.bundle(0, ())
    fleet.publish_release(make_release(2))
    new = fleet.repository.bundle(0, ())
    with pytest.raises(CorruptError):
        advance(pinned(fleet), {**new, "targets.json": old["targets.json"]})


def test_stolen_online_keys_cannot_sign_a_model(fleet):
    targets = Metadata[Targets].from_bytes(fleet.repository.targets_metadata()).signed
    targets.version += 1
    targets.targets["models/evil/1.json"] = TargetFile.from_data("models/evil/1.json", b"evil")
    files = fleet.forge(
        fleet.repository.bundle(0, ()), targets=targets, targets_signers=[fleet.online.snapshot]
    )
    with pytest.raises(UnsignedError):
        advance(pinned(fleet), files)


def test_stolen_online_keys_cannot_roll_targets_back(fleet, tmp_path):
    old = fleet.copy(tmp_path / "old").repository.bundle(0, ())
    fleet.publish_release(make_release(2))
    honest = fleet.repository.bundle(0, ())
    state = advance(pinned(fleet), honest).state
    old_targets = Metadata[Targets].from_bytes(old["targets.json"]).signed
    with pytest.raises(RollbackError):
        advance(state, fleet.forge(honest, targets=old_targets))


def test_one_stolen_root_key_is_not_enough(fleet):
    evil = Ed25519Signer.generate()
    files = fleet.repository.bundle(0, ())
    files["2.root.json"] = fleet.rotate(signers=(0,), targets=[evil])
    assert code_of(fleet, files) == "metadata-unsigned"


def test_a_skipped_root_version_is_refused(fleet):
    files = fleet.repository.bundle(0, ())
    files["2.root.json"] = fleet.rotate(version=3)
    assert code_of(fleet, files) == "metadata-rollback"


def test_a_revoked_targets_key_signs_nothing_any_more(fleet):
    files = fleet.repository.bundle(0, ())
    files["2.root.json"] = fleet.rotate(targets=[Ed25519Signer.generate()])
    assert code_of(fleet, files) == "metadata-unsigned"


def test_a_threshold_of_zero_does_not_load(fleet):
    files = fleet.repository.bundle(0, ())
    root = json.loads(files["1.root.json"])
    root["signed"]["version"] = 2
    root["signed"]["roles"]["targets"]["threshold"] = 0
    files["2.root.json"] = json.dumps(root).encode()
    assert code_of(fleet, files) == "metadata-malformed"


def test_endless_and_bottomless_metadata_is_refused(fleet):
    files = fleet.repository.bundle(0, ())
    for broken in (b"[" * 16_000, b"\xff", b"{}", files["timestamp.json"] + b" " * 17_000):
        assert code_of(fleet, {**files, "timestamp.json": broken}) in {
            "metadata-malformed",
            "metadata-mixed",
        }
    assert code_of(fleet, {**files, "x.json": bytes(5 * 2**20)}) == "oversized"
    assert code_of(fleet, {**files, "models/x.json": bytes(5 * 2**20)}) == "oversized"


def test_seventy_bogus_signatures_change_nothing(fleet):
    files = fleet.repository.bundle(0, ())
    timestamp = json.loads(files["timestamp.json"])
    timestamp["signatures"] += [{"keyid": f"{i:064x}", "sig": "00" * 64} for i in range(70)]
    files["timestamp.json"] = json.dumps(timestamp, separators=(",", ":")).encode()
    assert code_of(fleet, files) == "believed"


def test_an_authority_that_no_offline_key_signed_directs_nobody(fleet):
    files = fleet.repository.bundle(0, ())
    files[AUTHORITY_TARGET] = files[AUTHORITY_TARGET].replace(b'"demo"', b'"evil"')
    with pytest.raises(CorruptError):
        advance(pinned(fleet), files)
    with pytest.raises(UnsignedError, match="no authority"):
        pinned(fleet).who_directs()


def test_a_root_is_pinned_only_by_its_digest_and_with_distinct_keys(fleet):
    root = fleet.repository.bundle(0, ())["1.root.json"]
    with pytest.raises(CorruptError):
        pin(root, "0" * 64)
    from hashlib import sha256

    broken = json.loads(root)
    twin = broken["signed"]["roles"]["root"]["keyids"]
    broken["signed"]["keys"][twin[1]] = broken["signed"]["keys"][twin[0]]
    content = json.dumps(broken).encode()
    with pytest.raises(UnsignedError):
        pin(content, sha256(content).hexdigest())
    with pytest.raises(MalformedError):
        pin(b"{}", sha256(b"{}").hexdigest())


def test_every_refusal_is_an_error_of_our_tree(fleet):
    files = fleet.repository.bundle(0, ())
    for name, content in files.items():
        for broken in (b"", content[:-1], content.replace(b"1", b"2"), b"null", b"[]"):
            result = run(pinned(fleet), {**files, name: broken})
            if isinstance(result, NotRefreshed):
                with pytest.raises((TrustError, MalformedError)) as raised:
                    believe(result)
                assert isinstance(raised.value, AgentError)
                assert "\n" not in str(raised.value)


def test_keys_of_the_stock_library_are_gone_after_a_refresh(fleet):
    advance(pinned(fleet), fleet.repository.bundle(0, ()))
    with pytest.raises(ValueError, match=r"[Uu]nsupported"):
        Key.from_dict("a", {"keytype": "rsa", "scheme": "rsassa-pss-sha256", "keyval": {}})


# what was verified before a refusal


def test_a_newer_root_is_kept_although_the_rest_of_its_bundle_is_refused(fleet):
    state = advance(pinned(fleet), fleet.repository.bundle(0, ())).state
    fleet.rotate()
    fleet.reopen()
    files = fleet.repository.bundle(1, ())
    del files["timestamp.json"]
    result = run(state, files)
    assert isinstance(result, NotRefreshed)
    assert result.state is not None
    assert (result.state.root_version, result.state.marks["root"].version) == (2, 2)
    assert result.state.metadata == state.metadata
    assert result.state.authority == state.authority


def test_a_timestamp_is_kept_although_its_snapshot_does_not_come(fleet):
    state = advance(pinned(fleet), fleet.repository.bundle(0, ())).state
    fleet.publish_release(make_release(2))
    files = fleet.repository.bundle(1, ())
    del files["snapshot.json"]
    result = run(state, files)
    assert isinstance(result, NotRefreshed)
    assert result.state is not None
    assert result.state.marks["timestamp"].version == 3
    assert result.state.marks["snapshot"].version == 2
    assert advance(result.state, fleet.repository.bundle(1, ())).state.marks["targets"].version == 3


def test_nothing_is_kept_of_a_bundle_that_goes_back_behind_the_marks(fleet, tmp_path):
    old = fleet.copy(tmp_path / "old")
    fleet.publish_release(make_release(2))
    state = advance(pinned(fleet), fleet.repository.bundle(0, ())).state
    emptied = msgspec.structs.replace(state, metadata={})
    result = run(emptied, old.repository.bundle(1, ()))
    assert isinstance(result, NotRefreshed)
    assert result.state is None


def test_nothing_is_kept_of_a_root_that_counts_one_key_twice(fleet):
    stolen = fleet.targets_keys[0]
    twin = Ed25519Key("f" * 64, "ed25519", "ed25519", dict(stolen.public_key.keyval))
    root: Metadata[Root] = Metadata[Root].from_bytes(fleet.repository.bundle(0, ())["1.root.json"])
    root.signed.version = 2
    root.signed.add_key(twin, "targets")
    root.signatures.clear()
    for key in fleet.root_keys()[:2]:
        root.sign(key, append=True)
    result = run(pinned(fleet), {"2.root.json": root.to_bytes()})
    assert isinstance(result, NotRefreshed)
    assert result.state is None
