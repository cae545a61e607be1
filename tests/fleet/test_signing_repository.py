"""The repository publishes what offline keys signed, whole or not at all."""

from datetime import timedelta
from pathlib import Path

import pytest
from tuf.api.metadata import Metadata, TargetFile, Targets

from agent.contract.authority import AUTHORITY_TARGET
from agent.contract.codec import encode
from agent.contract.enrolment import EnrolReply, EnrolRequest
from agent.contract.envelope import device_id
from agent.contract.keys import Ed25519Signer
from agent.contract.limits import MAX_PAYLOAD_BYTES
from fleet.errors import SigningError
from fleet.signing.ceremony import create_dev
from fleet.signing.enrolment import seal_reply
from fleet.signing.metadata import next_targets
from fleet.signing.repository import Repository
from tests.signed_fleet import NOW, SignedFleet, advance, device_key, make_release, pinned

ONE, TWO = "models/motion/v1.json", "models/motion/v2.json"


@pytest.fixture
def fleet(tmp_path: Path) -> SignedFleet:
    return SignedFleet(tmp_path / "fleet")


def next_of(fleet: SignedFleet, files: dict[str, bytes], **changes) -> bytes:
    given = {"removals": (), "signers": fleet.targets_keys[:1], "now": NOW, **changes}
    return next_targets(fleet.repository.targets_metadata(), additions=files, **given)


def tree(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_a_new_fleet_has_the_roles_thresholds_and_expiries_of_the_design(fleet):
    from tuf.api.metadata import Root

    root = Metadata[Root].from_bytes(fleet.repository.bundle(0, ())["1.root.json"]).signed
    assert {name: (len(r.keyids), r.threshold) for name, r in root.roles.items()} == {
        "root": (3, 2),
        "targets": (2, 1),
        "snapshot": (1, 1),
        "timestamp": (1, 1),
    }
    assert root.consistent_snapshot
    lives = {role: (when - NOW).days for role, when in fleet.repository.expires().items()}
    assert lives == {"root": 365, "targets": 90, "snapshot": 7, "timestamp": 7}
    assert fleet.repository.authority().fleet == "demo"


def test_a_second_fleet_is_not_made_over_the_first(fleet):
    before = tree(fleet.home)
    for keys, repository in (("keys", "elsewhere"), ("other-keys", "repository")):
        with pytest.raises(SigningError, match="already"):
            create_dev(fleet.home / keys, fleet.home / repository, "demo", NOW)
    assert tree(fleet.home) == before
    with pytest.raises(SigningError, match="fleet"):
        create_dev(fleet.home / "k", fleet.home / "r", "No Name", NOW)


def test_a_published_target_reaches_a_device(fleet):
    fleet.publish({ONE: b"one"})
    fleet.publish({TWO: b"two"})
    news = advance(pinned(fleet), fleet.repository.bundle(0, [ONE, TWO]), (ONE, TWO))
    assert news.targets == {ONE: b"one", TWO: b"two"}
    assert fleet.repository.target(TWO) == b"two"
    assert fleet.repository.target("models/none.json") is None


def test_a_withdrawn_target_is_gone_for_devices(fleet):
    fleet.publish({ONE: b"one"})
    fleet.publish(removals=[ONE])
    news = advance(pinned(fleet), fleet.repository.bundle(0, [ONE]), (ONE,))
    assert news.refused[ONE].code == "unpublished"
    for name in (ONE, AUTHORITY_TARGET):
        with pytest.raises(SigningError, match="cannot be withdrawn"):
            fleet.publish(removals=[name])


def test_publishing_twice_is_publishing_once(fleet):
    targets = next_of(fleet, {ONE: b"one"})
    fleet.repository.publish(targets, {ONE: b"one"}, NOW)
    before = tree(fleet.home)
    fleet.repository.publish(targets, {ONE: b"one"}, NOW)
    assert tree(fleet.home) == before


def test_what_devices_would_refuse_is_not_published(fleet):
    files = {ONE: b"one"}
    good = next_of(fleet, files)
    unsigned = next_of(fleet, files, signers=[Ed25519Signer.generate()])
    skipped = next_targets(good, additions={}, removals=(), signers=fleet.targets_keys[:1], now=NOW)
    before = tree(fleet.home)
    for targets, given, now, why in (
        (unsigned, files, NOW, "not signed"),
        (skipped, files, NOW, "after 1 comes 2"),
        (good, files, NOW + timedelta(days=91), "ran out"),
        (good, {}, NOW, "cannot be read"),
        (good, {ONE: b"two"}, NOW, "not the one"),
        (good, {**files, TWO: b"two"}, NOW, "does not name"),
        (b"nonsense", {}, NOW, "does not parse"),
        (fleet.repository.bundle(0, ())["snapshot.json"], {}, NOW, "expected targets"),
    ):
        with pytest.raises(SigningError, match=why):
            fleet.repository.publish(targets, given, now)
    assert tree(fleet.home) == before


@pytest.mark.parametrize("name", ["../../etc/cron.d/x", "/etc/passwd", "models/../x", "A", ""])
def test_a_target_name_that_leaves_the_folder_is_refused_on_both_sides(fleet, name):
    with pytest.raises(SigningError, match="not a target name"):
        next_of(fleet, {name: b"x"})
    targets = Metadata[Targets].from_bytes(fleet.repository.targets_metadata())
    targets.signed.version += 1
    targets.signed.targets[name] = TargetFile.from_data(name, b"x", ["sha256"])
    targets.sign(fleet.targets_keys[0])
    with pytest.raises(SigningError, match="no acceptable name"):
        fleet.repository.publish(targets.to_bytes(), {name: b"x"}, NOW)


def test_an_authority_that_does_not_parse_is_not_published(fleet):
    targets = next_of(fleet, {AUTHORITY_TARGET: b"{}"})
    with pytest.raises(SigningError, match="authority"):
        fleet.repository.publish(targets, {AUTHORITY_TARGET: b"{}"}, NOW)
    assert fleet.repository.authority().director_epoch == 1


def test_online_metadata_is_signed_again_before_it_runs_out(fleet):
    assert not fleet.repository.refresh(NOW + timedelta(hours=23))
    assert fleet.repository.refresh(NOW + timedelta(hours=25))
    assert not fleet.repository.refresh(NOW + timedelta(hours=26))
    later = NOW + timedelta(days=30)
    assert fleet.repository.refresh(later)
    fleet.reopen()
    news = advance(pinned(fleet), fleet.repository.bundle(0, ()), now=later)
    assert news.state.marks["timestamp"].version == 3
    assert news.state.marks["targets"].version == 1


def test_a_crash_at_any_write_leaves_the_old_or_the_new_release(fleet, tmp_path, monkeypatch):
    class PowerCutError(BaseException):
        pass

    true_replace = Path.replace
    manifest = b"m" * 500
    cuts = 0
    for good in range(10):
        home = tmp_path / f"cut-{good}"
        twin = fleet.copy(home)
        done = []

        def replace(path: Path, target: Path, done=done, good=good) -> Path:
            if len(done) == good:
                raise PowerCutError
            done.append(target)
            return true_replace(path, target)

        targets = next_of(twin, {ONE: manifest})
        with monkeypatch.context() as patched:
            patched.setattr(Path, "replace", replace)
            try:
                twin.repository.publish(targets, {ONE: manifest}, NOW)
            except PowerCutError:
                cuts += 1
        twin.reopen()
        news = advance(pinned(twin), twin.repository.bundle(0, [ONE]), (ONE,))
        published = news.state.marks["targets"].version == 2
        assert published == (len(done) == 4)
        assert (ONE in news.targets) == published
        twin.repository.publish(targets, {ONE: manifest}, NOW)
        again = advance(news.state, twin.repository.bundle(1, [ONE]), (ONE,))
        assert again.targets == {ONE: manifest}
    assert cuts == 4  # target file, targets, snapshot, timestamp


def test_a_repository_is_opened_only_if_it_verifies(fleet, tmp_path):
    folder = fleet.home / "repository/metadata"
    online = fleet.online
    keys = {"snapshot": online.snapshot, "timestamp": online.timestamp}
    Repository(fleet.home / "repository", **keys)
    with pytest.raises(SigningError, match="run init first"):
        Repository(tmp_path / "nothing", **keys)
    content = (folder / "timestamp.json").read_bytes()
    for broken in (b"", content.replace(b'"version":1', b'"version":2')):
        (folder / "timestamp.json").write_bytes(broken)
        with pytest.raises(SigningError, match="timestamp"):
            Repository(fleet.home / "repository", **keys)
    (folder / "timestamp.json").unlink()
    with pytest.raises(SigningError, match="cannot be read"):
        Repository(fleet.home / "repository", **keys)


def test_a_wrong_online_key_publishes_nothing(fleet):
    wrong = Ed25519Signer.generate()
    repository = Repository(fleet.home / "repository", snapshot=wrong, timestamp=wrong)
    before = tree(fleet.home / "repository/metadata")
    with pytest.raises(SigningError, match="not signed by its keys"):
        repository.refresh(NOW + timedelta(days=3))
    assert tree(fleet.home / "repository/metadata") == before


def test_a_bundle_answers_from_one_state_and_fits_one_enrolment_reply(fleet):
    for counter in range(1, 6):
        fleet.publish_release(make_release(counter))
    files = fleet.repository.bundle(0, ["models/unknown.json"])
    assert sorted(files) == [
        "1.root.json",
        AUTHORITY_TARGET,
        "snapshot.json",
        "targets.json",
        "timestamp.json",
    ]
    assert sum(len(content) for content in files.values()) < 40_000


def test_a_list_too_long_for_devices_to_enrol_with_is_not_published(fleet):
    many = {f"models/motion/v{n}.json": b"%d" % n for n in range(550)}
    fleet.publish(many)
    longest = sealed_reply(fleet)
    assert len(longest) <= MAX_PAYLOAD_BYTES
    held = fleet.repository.published()
    more = {f"models/motion/w{n}.json": b"%d" % n for n in range(100)}
    with pytest.raises(SigningError, match="withdraw releases that nobody needs, or delegate"):
        fleet.publish(more)
    assert fleet.repository.published() == held
    fleet.publish({AUTHORITY_TARGET: encode(fleet.repository.authority()) + b" " * 9})
    fleet.publish(removals=list(many)[:200])
    fleet.publish(more)
    assert len(sealed_reply(fleet)) <= MAX_PAYLOAD_BYTES


def sealed_reply(fleet: SignedFleet) -> bytes:
    """A reply with the longest that may stand in it."""
    key = device_key()
    request = EnrolRequest(
        fleet="demo",
        nonce="0" * 32,
        device_key=bytes(key.verify_key).hex(),
        token_key="0" * 64,
        hardware="generic-linux",
    )
    reply = EnrolReply(
        device=device_id(key.verify_key),
        nonce="0" * 32,
        fleet="demo",
        status="enrolled",
        broker_url="mqtts://" + "b" * 480,
        broker_ca="c" * 16_384,
        username="u" * 80,
        password="p" * 80,
    )
    metadata = fleet.repository.bundle(0, (), enrolling=True)
    return seal_reply(request, reply, key=fleet.online.enrolment, metadata=metadata)
