"""The ceremony: founded by people, changed by proposals, followed by devices."""

import json
from pathlib import Path

import pytest

from agent.errors import RollbackError
from fleet.config import FleetConfig
from fleet.errors import SigningError
from fleet.service.desk import open_desk
from fleet.signing import keys as key_files
from fleet.signing.difference import describe
from fleet.signing.proposal import missing, propose_root, read_proposal, sign_proposal
from fleet.signing.published import read_published
from fleet.signing.repository import Repository
from fleet.signing.rotation import revoke_key, rotate_role
from fleet.signing.signers import public_key_of
from tests.ceremonies import Person, first_trust, follow, found_fleet, running
from tests.signed_fleet import NOW, SignedFleet, advance, pinned

pytestmark = pytest.mark.slow


@pytest.fixture
def person(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Person:
    monkeypatch.setattr(key_files, "MEMORY_BYTES", 8 * 1024 * 1024)
    return Person(tmp_path, capsys)


@pytest.fixture
def fleet(tmp_path: Path) -> SignedFleet:
    return SignedFleet(tmp_path / "fleet")


def new_keys(folder: Path, *names: str):
    return [key_files.create(folder / f"new-{name}.json", "", dev=True) for name in names]


def test_a_fleet_is_founded_without_its_manager_seeing_an_offline_key(person, tmp_path):
    home = found_fleet(person)
    held = {path.name for path in (home / "keys").rglob("*") if path.is_file()}
    assert held == {
        "snapshot.json",
        "timestamp.json",
        "director.json",
        "enrolment.json",
        "public.json",
    }
    with running(home) as manager:
        news = follow(manager, first_trust(home))
        assert news.state.who_directs().fleet == "demo"
        out = person("fleet", "status", "--home", home)
        assert "every key lies in one place" not in out
    with pytest.raises(SigningError, match="passphrase does not open"):
        open_desk(FleetConfig.load(home), "wrong one", lambda _run, _word: None)


def test_a_founding_that_too_few_signed_makes_no_home(person, tmp_path):
    secret = ("--passphrase-file", person.secret)
    person("keys", "online", tmp_path / "online", *secret)
    founding = tmp_path / "founding.json"
    words = [
        "keys",
        "init",
        founding,
        "--fleet",
        "demo",
        "--online",
        tmp_path / "online/public.json",
    ]
    for name in ("one", "two"):
        words += ["--root", person.key(name)]
    out = person(*words, "--targets", person.key("three"))
    assert "+ root key" in out
    assert "new root: 0 of 2 signed" in out
    person("keys", "root", "sign", founding, "--key", person.key("one"), *secret, "--yes")
    status, _, err = person.tries(
        "init", "--founding", founding, "--online", tmp_path / "online", *secret,
        "--broker", "embedded", "--home", tmp_path / "home",
    )  # fmt: skip
    assert status == 5
    assert "new root: 1 of 2 signed" in err
    assert "targets: 0 of 1 signed" in err
    assert not (tmp_path / "home").exists()


def test_a_rotated_timestamp_key_reaches_devices_and_recovers_from_one_that_raced_ahead(
    person, tmp_path
):
    home = found_fleet(person)
    secret = ("--passphrase-file", person.secret)
    new_key = home / "keys/online/timestamp-2.json"
    with running(home) as manager:
        honest = follow(manager, first_trust(home)).state
        raced = honest.marks["timestamp"].__class__(
            version=10**6, keyids=honest.marks["timestamp"].keyids
        )
        state = honest.__class__(
            pinned=honest.pinned,
            root=honest.root,
            authority=honest.authority,
            marks={**honest.marks, "timestamp": raced},
        )
        with pytest.raises(RollbackError):
            follow(manager, state)
        person("keys", "new", new_key, *secret)
        proposal = tmp_path / "rotate.json"
        out = person(
            "keys", "rotate", "timestamp", "--to", new_key, "--file", proposal,
            "--repository", home / "repository", "--yes",
        )  # fmt: skip
        assert "+ timestamp key" in out
        assert "- timestamp key" in out
        status, _, err = person.tries("keys", "root", "publish", proposal, "--home", home)
        assert status == 5
        assert "root in force: 0 of 2 signed" in err
        for name in ("root-1", "root-3"):
            key = person.key(name)
            person("keys", "root", "sign", proposal, "--key", key, *secret, "--yes")
        out = person("keys", "root", "publish", proposal, "--home", home)
        assert "root 2" in out
        news = follow(manager, state)
        assert news.state.root_version == 2
        assert news.state.marks["timestamp"].version < 10
        again = follow(manager, news.state)
        assert again.state.marks == news.state.marks
    with running(home) as manager:  # the new key is found again after a restart
        person("repo", "refresh", "--home", home)
        assert follow(manager, news.state).state.marks["timestamp"].version > 2


def test_a_rotated_director_begins_an_epoch_and_assignments_are_signed_anew(person, tmp_path):
    home = found_fleet(person)
    secret = ("--passphrase-file", person.secret)
    new_key = home / "keys/online/director-2.json"
    with running(home) as manager:
        state = follow(manager, first_trust(home)).state
        person("keys", "new", new_key, *secret)
        out = person(
            "keys", "rotate", "director", "--to", new_key, "--key", person.key("targets-1"),
            *secret, "--home", home, "--yes",
        )  # fmt: skip
        assert "director epoch 2" in out
        authority = follow(manager, state).state.who_directs()
        assert authority.director_epoch == 2
        assert authority.director_keys == (public_key_of(str(new_key)).public_hex,)
        assert manager.ask(lambda desk: desk.keys.director.public_hex) in authority.director_keys


def test_a_manager_without_the_new_key_publishes_nothing(person, tmp_path):
    home = found_fleet(person)
    secret = ("--passphrase-file", person.secret)
    with running(home) as manager:
        status, _, err = person.tries(
            "keys", "rotate", "director", "--to", person.key("elsewhere"),
            "--key", person.key("targets-1"), *secret, "--home", home, "--yes",
        )  # fmt: skip
        assert status == 5
        assert "holds no director key" in err
        assert follow(manager, first_trust(home)).state.who_directs().director_epoch == 1


def test_two_engineers_sign_where_the_threshold_of_targets_is_two(person, tmp_path):
    home = found_fleet(person, targets_threshold=2)
    secret = ("--passphrase-file", person.secret)
    person("keys", "new", home / "keys/online/enrolment-2.json", *secret)
    proposal = tmp_path / "enrolment.json"
    person(
        "keys", "rotate", "enrolment", "--to", home / "keys/online/enrolment-2.json",
        "--file", proposal, "--home", home, "--key", person.key("targets-1"), *secret, "--yes",
    )  # fmt: skip
    assert missing(read_proposal(proposal.read_bytes()))[0].startswith("targets: 1 of 2")
    person("keys", "root", "sign", proposal, "--key", person.key("targets-2"), *secret, "--yes")
    with running(home) as manager:
        person("keys", "root", "publish", proposal, "--home", home)
        assert follow(manager, first_trust(home)).state.who_directs().director_epoch == 1


def test_in_a_development_fleet_one_command_rotates(person, tmp_path):
    home = tmp_path / "home"
    person("init", "--dev", "--broker", "embedded", "--home", home, "--fleet", "demo")
    key_files.create(home / "keys/online/snapshot-2.json", "", dev=True)
    with running(home, "") as manager:
        person(
            "keys", "rotate", "snapshot", "--to", home / "keys/online/snapshot-2.json",
            "--home", home, "--yes",
        )  # fmt: skip
        assert follow(manager, first_trust(home)).state.root_version == 2
        revoked = key_files.read_public(home / "keys/offline/root-3.json")
        status, _, err = person.tries("keys", "revoke", "ffffffff", "--home", home, "--yes")
        assert status == 5
        assert "no role has a key" in err
        person("keys", "revoke", revoked, "--home", home, "--yes")
        state = follow(manager, first_trust(home)).state
        assert state.root_version == 3
        roles = json.loads(state.root)["signed"]["roles"]
        assert len(roles["root"]["keyids"]) == 2


def test_nothing_is_signed_without_a_yes(person, tmp_path):
    home = tmp_path / "home"
    person("init", "--dev", "--broker", "embedded", "--home", home, "--fleet", "demo")
    before = sorted((home / "repository").rglob("*"))
    status, out, _ = person.tries("keys", "root", "propose", "--home", home)
    assert status == 130
    assert "root version 1 → 2" in out
    assert sorted((home / "repository").rglob("*")) == before


# proposals as values


def test_a_new_targets_key_signs_the_same_content_anew(fleet, tmp_path):
    fleet.publish({"models/motion/v1.json": b"one"})
    (new,) = new_keys(tmp_path, "targets")
    held = fleet.repository.published()
    proposal = rotate_role(held, "targets", [new.public_key], NOW)
    assert [line.partition(":")[0] for line in missing(proposal)] == [
        "root in force",
        "new root",
        "targets",
    ]
    done = sign_proposal(proposal, [*fleet.root_keys()[:2], new])
    assert missing(done) == ()
    online = fleet.online
    fleet.repository.publish_root(
        done.root, targets=done.metadata["targets"], snapshot=online.snapshot,
        timestamp=online.timestamp, now=NOW,
    )  # fmt: skip
    wanted = "models/motion/v1.json"
    news = advance(pinned(fleet), fleet.repository.bundle(0, [wanted]), (wanted,))
    assert news.targets == {wanted: b"one"}
    with pytest.raises(SigningError, match="not signed by its keys"):
        fleet.publish({"models/motion/v2.json": b"two"})  # by the key that was rotated out


def test_a_signature_of_a_key_without_a_part_is_refused(fleet, tmp_path):
    (new,) = new_keys(tmp_path, "stranger")
    proposal = propose_root(
        fleet.repository.published(), what="", add={}, remove={}, thresholds={}, now=NOW
    )
    with pytest.raises(SigningError, match="no part"):
        sign_proposal(proposal, [new])
    with pytest.raises(SigningError, match="no part"):
        sign_proposal(proposal, fleet.targets_keys[:1])


def test_an_added_root_key_shows_as_plus_and_its_threshold_as_a_change(fleet, tmp_path):
    (new,) = new_keys(tmp_path, "root")
    held = fleet.repository.published()
    gone = held.root.roles["root"].keyids[0]
    proposal = propose_root(
        held, what="", add={"root": [new.public_key]}, remove={"root": [gone[:12]]},
        thresholds={"root": 3}, now=NOW,
    )  # fmt: skip
    lines = describe(proposal)
    assert f"  + root key {new.public_key.keyid[:16]}" in lines
    assert f"  - root key {gone[:16]}" in lines
    assert "  · root: 2 of 3 must sign → 3 of 3" in lines
    assert lines[1] == "root version 1 → 2"


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"remove": {"targets": ["x"]}}, "0 of the targets keys"),
        ({"thresholds": {"root": 4}}, "4 of 3 root keys cannot sign"),
        ({"thresholds": {"root": 0}}, "cannot sign"),
        ({"thresholds": {"mirrors": 1}}, "no role 'mirrors'"),
    ],
)
def test_a_root_that_could_never_be_signed_is_not_proposed(fleet, change, why):
    plain = {"what": "", "add": {}, "remove": {}, "thresholds": {}, "now": NOW}
    with pytest.raises(SigningError, match=why):
        propose_root(fleet.repository.published(), **{**plain, **change})


def test_the_last_key_of_a_role_is_rotated_not_revoked(fleet):
    held = fleet.repository.published()
    for role, public in (
        ("snapshot", fleet.online.snapshot.public_hex),
        ("director", fleet.online.director.public_hex),
    ):
        with pytest.raises(SigningError, match=f"{role}.*"):
            revoke_key(held, public, NOW)
    with pytest.raises(SigningError, match="too short"):
        revoke_key(held, "ab", NOW)


def test_a_root_that_too_few_signed_or_that_skips_is_not_published(fleet):
    online, held = fleet.online, fleet.repository.published()
    proposal = propose_root(held, what="", add={}, remove={}, thresholds={}, now=NOW)
    once = sign_proposal(proposal, fleet.root_keys()[:1])
    skipping = fleet.rotate(version=3)
    (fleet.home / "repository/metadata/3.root.json").unlink()
    for root, why in ((once.root, "too few keys"), (skipping, "after 1 comes 2")):
        with pytest.raises(SigningError, match=why):
            fleet.repository.publish_root(
                root, targets=None, snapshot=online.snapshot, timestamp=online.timestamp, now=NOW
            )
    assert fleet.repository.published() == held


def test_a_crash_at_any_write_of_a_new_root_is_finished_by_the_next_refresh(
    fleet, tmp_path, monkeypatch
):
    class PowerCutError(BaseException):
        pass

    snapshot, timestamp, targets = new_keys(tmp_path, "snapshot", "timestamp", "targets")
    held = fleet.repository.published()
    proposal = propose_root(
        held,
        what="",
        add={
            "snapshot": [snapshot.public_key],
            "timestamp": [timestamp.public_key],
            "targets": [targets.public_key],
        },
        remove={
            role: held.root.roles[role].keyids for role in ("snapshot", "timestamp", "targets")
        },
        thresholds={},
        now=NOW,
    )
    done = sign_proposal(proposal, [*fleet.root_keys()[:2], targets])
    true_replace = Path.replace
    for good in range(4):
        twin = fleet.copy(tmp_path / f"cut-{good}")
        count = []

        def replace(path: Path, target: Path, count=count, good=good) -> Path:
            if len(count) == good:
                raise PowerCutError
            count.append(target)
            return true_replace(path, target)

        def publish(repository: Repository) -> None:
            repository.publish_root(
                done.root, targets=done.metadata["targets"], snapshot=snapshot,
                timestamp=timestamp, now=NOW,
            )  # fmt: skip

        with monkeypatch.context() as patched:
            patched.setattr(Path, "replace", replace)
            with pytest.raises(PowerCutError):
                publish(twin.repository)
        folder = twin.home / "repository"
        found = read_published(folder)
        assert found.interrupted == (good == 3)
        assert found.root.version == (2 if good == 3 else 1)
        new = found.root.version == 2
        again = Repository(
            folder,
            snapshot=snapshot if new else fleet.online.snapshot,
            timestamp=timestamp if new else fleet.online.timestamp,
        )
        if new:
            assert again.refresh(NOW)
        else:
            publish(again)
        assert advance(pinned(twin), again.bundle(0, ())).state.root_version == 2
        assert not again.refresh(NOW)


def test_a_proposal_of_version_1_is_still_read():
    content = (Path(__file__).parents[1] / "fixtures/proposal-v1.json").read_bytes()
    proposal = read_proposal(content)
    assert proposal.what == "the next root"
    assert missing(proposal)[0].startswith("root in force: 1 of 2")
    assert describe(proposal)[1] == "root version 1 → 2"
    newer = content.replace(b'"v":1', b'"v":2')
    with pytest.raises(SigningError, match="not a proposal"):
        read_proposal(newer)
