"""A family of models belongs to its owners: they sign its releases, and nothing else."""

from pathlib import Path

import msgspec
import pytest

from agent.contract.authority import AUTHORITY_TARGET, PERMITS_TARGET, Permits
from agent.contract.codec import encode
from agent.contract.keys import Ed25519Signer
from fleet.errors import SigningError
from fleet.service.views import TargetsView
from fleet.signing import keys as key_files
from fleet.signing.metadata import delegate_family, first_targets, next_targets, parse
from tests.ceremonies import Person, first_trust, follow, running
from tests.manager_home import MODEL
from tests.signed_fleet import NOW, SignedFleet, advance, pinned, run

pytestmark = pytest.mark.slow

V1, V2 = "models/motion/v1.json", "models/motion/v2.json"
ROLE = "models-motion"


@pytest.fixture
def person(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Person:
    return Person(tmp_path, capsys)


@pytest.fixture
def home(person: Person) -> Path:
    home = person.folder / "home"
    person("init", "--dev", "--broker", "embedded", "--home", home, "--fleet", "demo")
    return home


@pytest.fixture
def fleet(tmp_path: Path) -> SignedFleet:
    return SignedFleet(tmp_path / "fleet")


def owner_key(folder: Path, name: str = "owner"):
    return key_files.create(folder / f"{name}.json", "", dev=True)


def delegate(fleet: SignedFleet, *owners: Ed25519Signer, threshold: int = 1) -> None:
    """Give the family to its owners, in force at once."""
    signed = delegate_family(
        fleet.repository.targets_metadata(),
        "motion",
        [owner.public_key for owner in owners],
        threshold=threshold,
        signers=fleet.targets_keys[:1],
        now=NOW,
    )
    fleet.repository.publish(signed, {}, NOW)


def test_an_owner_publishes_and_the_targets_keys_no_longer_do(person, home):
    owner, secret = person.key("owner"), ("--passphrase-file", person.secret)
    with running(home, "") as manager:
        state = first_trust(home)
        out = person("keys", "delegate", "motion", "--owner", owner, "--home", home, "--yes")
        assert "+ models-motion key" in out
        status, _, err = person.tries("model", "publish", MODEL, "--home", home)
        assert status == 5
        assert "models-motion metadata is not signed by its keys" in err
        person("model", "publish", MODEL, "--key", owner, *secret, "--home", home)
        news = follow(manager, state, V1)
        assert news.refused == {}
        assert ROLE in news.state.metadata
        status, out, _ = person.tries("keys", "status", "--home", home, "-o", "json")
        assert '"role": "models-motion"' in out
        person("model", "withdraw", "motion/v1", "--key", owner, *secret, "--home", home, "--yes")
        assert follow(manager, news.state, V1).refused[V1].code == "unpublished"


def test_a_release_is_signed_where_no_manager_is(person, home, tmp_path):
    owner, secret = person.key("owner"), ("--passphrase-file", person.secret)
    basis, out = tmp_path / "basis.json", tmp_path / "signed"
    with running(home, "") as manager:
        person("keys", "delegate", "motion", "--owner", owner, "--home", home, "--yes")
        assert "root digest" in person("model", "basis", basis, "--home", home)
    sign = ("model", "sign", MODEL, "--basis", basis, "--key", owner, *secret, "--out", out)
    status, shown, _ = person.tries(*sign)
    assert status == 130
    assert AUTHORITY_TARGET in shown
    assert not out.exists()
    assert "by role models-motion" in person(*sign, "--yes")
    with running(home, "") as manager:
        person("model", "publish", out, "--home", home)
        assert follow(manager, first_trust(home), V1).refused == {}


def test_a_forged_basis_is_not_signed_upon(person, home, tmp_path):
    basis = tmp_path / "basis.json"
    with running(home, ""):
        person("model", "basis", basis, "--home", home)
    held = msgspec.json.decode(basis.read_bytes(), type=TargetsView)
    thief = owner_key(tmp_path, "thief")
    forged = next_targets(
        held.targets, additions={V1: b"evil"}, removals=(), signers=[thief], now=NOW
    )
    basis.write_bytes(msgspec.json.encode(msgspec.structs.replace(held, targets=forged)))
    status, _, err = person.tries(
        "model", "sign", MODEL, "--basis", basis, "--key", person.key("me"),
        "--passphrase-file", person.secret, "--out", tmp_path / "out", "--yes",
    )  # fmt: skip
    assert status == 5
    assert "targets metadata is not signed by its keys" in err


def test_a_device_believes_the_owner_for_the_family_and_for_nothing_else(fleet, tmp_path):
    owner = owner_key(tmp_path)
    delegate(fleet, owner)
    own = first_targets({V1: b"one"}, [owner], NOW)
    fleet.repository.publish_roles({ROLE: own}, {V1: b"one"}, NOW)
    news = advance(pinned(fleet), fleet.repository.bundle(0, [V1]), (V1,))
    assert news.targets == {V1: b"one"}
    for name in ("models/audio/v1.json", "models/motion/deep/v1.json", AUTHORITY_TARGET):
        wide = next_targets(own, additions={name: b"x"}, removals=(), signers=[owner], now=NOW)
        with pytest.raises(SigningError, match="may not sign"):
            fleet.repository.publish_roles({ROLE: wide}, {name: b"x"}, NOW)
    stranger = next_targets(
        own, additions={V2: b"x"}, removals=(), signers=[owner_key(tmp_path, "s")], now=NOW
    )
    with pytest.raises(SigningError, match="not signed by its keys"):
        fleet.repository.publish_roles({ROLE: stranger}, {V2: b"x"}, NOW)
    assert fleet.repository.published().delegated[ROLE].version == 1


def test_what_only_a_revoked_owner_signed_is_no_longer_installed(fleet, tmp_path):
    old, new = owner_key(tmp_path), owner_key(tmp_path, "new")
    delegate(fleet, old)
    fleet.repository.publish_roles(
        {ROLE: first_targets({V1: b"one"}, [old], NOW)}, {V1: b"one"}, NOW
    )
    state = advance(pinned(fleet), fleet.repository.bundle(0, [V1]), (V1,)).state
    delegate(fleet, new)
    assert fleet.repository.target(V1) is None
    fleet.reopen()
    assert (
        advance(state, fleet.repository.bundle(1, [V1]), (V1,)).refused[V1].code
        == "metadata-unsigned"
    )
    again = first_targets({V2: b"two"}, [new], NOW, version=2)
    fleet.repository.publish_roles({ROLE: again}, {V2: b"two"}, NOW)
    news = advance(state, fleet.repository.bundle(1, [V1, V2]), (V1, V2))
    assert news.targets == {V2: b"two"}
    assert news.refused[V1].code == "unpublished"


def test_old_metadata_of_an_owner_is_a_rollback(fleet, tmp_path):
    owner = owner_key(tmp_path)
    delegate(fleet, owner)
    first = first_targets({V1: b"one"}, [owner], NOW)
    fleet.repository.publish_roles({ROLE: first}, {V1: b"one"}, NOW)
    before = fleet.repository.bundle(0, [V1])
    second = next_targets(first, additions={}, removals=[V1], signers=[owner], now=NOW)
    fleet.repository.publish_roles({ROLE: second}, {}, NOW)
    state = advance(pinned(fleet), fleet.repository.bundle(0, ())).state
    assert run(state, before, (V1,)).refusal.code == "metadata-rollback"
    mixed = {**fleet.repository.bundle(0, [V1]), f"{ROLE}.json": before[f"{ROLE}.json"]}
    fresh = advance(pinned(fleet), mixed, (V1,))
    assert fresh.refused[V1].code == "metadata-mixed"
    with pytest.raises(SigningError, match="after 2 comes 3"):
        fleet.repository.publish_roles({ROLE: first}, {V1: b"one"}, NOW)


def test_a_delegation_ends_its_search_and_needs_keys_that_can_sign(fleet, tmp_path):
    owner = owner_key(tmp_path)
    delegate(fleet, owner)
    delegations = parse(
        type(fleet.repository.published().targets), fleet.repository.targets_metadata()
    ).signed.delegations
    assert delegations.roles[ROLE].terminating
    with pytest.raises(SigningError, match="cannot sign"):
        delegate(fleet, owner, threshold=2)
    with pytest.raises(SigningError, match="cannot sign"):
        delegate(fleet, owner, owner, threshold=2)
    delegate(fleet)
    with pytest.raises(SigningError, match="not delegated"):
        delegate(fleet)


def test_a_bundle_with_delegations_fits_what_a_device_takes(fleet, tmp_path):
    owner = owner_key(tmp_path)
    delegate(fleet, owner)
    files = {f"models/motion/v{n}.json": b"%d" % n for n in range(50)}
    fleet.repository.publish_roles({ROLE: first_targets(files, [owner], NOW)}, files, NOW)
    bundle = fleet.repository.bundle(0, [V1])
    assert f"{ROLE}.json" in bundle
    assert sum(map(len, bundle.values())) < 40_000


def test_an_enrolment_reply_carries_neither_delegations_nor_permits(fleet, tmp_path):
    owner = owner_key(tmp_path)
    delegate(fleet, owner)
    own = first_targets({V1: b"one"}, [owner], NOW)
    fleet.repository.publish_roles({ROLE: own}, {V1: b"one"}, NOW)
    fleet.publish({PERMITS_TARGET: encode(Permits(fleet="demo"))})
    least = fleet.repository.bundle(0, (), enrolling=True)
    assert set(fleet.repository.bundle(0, ())) - set(least) == {f"{ROLE}.json", PERMITS_TARGET}
    state = advance(pinned(fleet), least).state
    news = advance(state, fleet.repository.bundle(1, [V1]), (V1,))
    assert news.targets == {V1: b"one"}
    assert news.state.permits is not None
