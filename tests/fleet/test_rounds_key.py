"""The manager's key for federated rounds: what it may sign, and everything that it may not."""

from pathlib import Path

import msgspec
import pytest
from tuf.api.metadata import DelegatedRole, Delegations, Metadata, Targets

from agent.contract.authority import AUTHORITY_TARGET, PERMITS_TARGET
from agent.contract.belief import believe_release
from agent.contract.endpoints import ENDPOINTS_TARGET
from agent.contract.keys import Ed25519Signer
from agent.contract.manifest import encode_release
from agent.contract.messages import Assigned
from agent.errors import CorruptError, MismatchError
from agent.refusals import BeyondRoundsError
from fleet.errors import SigningError
from fleet.signing import keys as key_files
from fleet.signing.difference import describe
from fleet.signing.metadata import (
    delegate_family,
    delegate_rounds,
    first_targets,
    next_snapshot,
    next_targets,
    next_timestamp,
)
from fleet.signing.rounds_key import propose_rounds
from tests.signed_fleet import NOW, SignedFleet, advance, pinned
from tests.small_fleet import a_release

OURS = "models/motion/rounds/v2.json"
ROLE = "rounds-motion"
NOT_OURS = (
    "models/motion/v2.json",
    "models/motion/rounds/deep/v2.json",
    "models/audio/rounds/v2.json",
    "models/motion-2/rounds/v2.json",
    "rounds/v2.json",
    AUTHORITY_TARGET,
    PERMITS_TARGET,
    ENDPOINTS_TARGET,
)


@pytest.fixture
def fleet(tmp_path: Path) -> SignedFleet:
    return SignedFleet(tmp_path / "fleet")


def a_key(folder: Path, name: str = "rounds"):
    return key_files.create(folder / f"{name}.json", "", dev=True)


def delegate(fleet: SignedFleet, key: Ed25519Signer | None) -> None:
    signed = delegate_rounds(
        fleet.repository.targets_metadata(),
        "motion",
        key and key.public_key,
        signers=fleet.targets_keys[:1],
        now=NOW,
    )
    fleet.repository.publish(signed, {}, NOW)


def test_a_device_believes_the_rounds_key_for_its_own_path(fleet, tmp_path):
    key = a_key(tmp_path)
    delegate(fleet, key)
    own = first_targets({OURS: b"two"}, [key], NOW)
    fleet.repository.publish_roles({ROLE: own}, {OURS: b"two"}, NOW)
    news = advance(pinned(fleet), fleet.repository.bundle(0, [OURS]), (OURS,))
    assert news.targets == {OURS: b"two"}


def test_the_manager_publishes_nothing_else_that_the_rounds_key_signed(fleet, tmp_path):
    key = a_key(tmp_path)
    delegate(fleet, key)
    for name in NOT_OURS:
        wide = first_targets({name: b"evil"}, [key], NOW)
        with pytest.raises(SigningError, match="may not sign"):
            fleet.repository.publish_roles({ROLE: wide}, {name: b"evil"}, NOW)
        assert fleet.repository.target(name) != b"evil"


def test_a_device_believes_nothing_else_of_a_thief_who_has_all_online_keys(fleet, tmp_path):
    key = a_key(tmp_path)
    delegate(fleet, key)
    held = fleet.repository.published()
    evil = {**dict.fromkeys(NOT_OURS, b"evil"), OURS: b"two"}
    wide = first_targets(evil, [key], NOW)
    snapshot = next_snapshot(
        held.snapshot, held.targets_bytes, fleet.online.snapshot, NOW, {ROLE: wide}
    )
    timestamp = next_timestamp(held.timestamp, snapshot, fleet.online.timestamp, NOW)
    forged = {
        **fleet.repository.bundle(0, ()),
        **{name: content for name, content in evil.items() if name != AUTHORITY_TARGET},
        "snapshot.json": snapshot,
        "timestamp.json": timestamp,
        f"{ROLE}.json": wide,
    }
    news = advance(pinned(fleet), forged, (OURS, *(n for n in NOT_OURS if "models" in n)))
    assert news.targets == {OURS: b"two"}
    assert (news.state.permits, news.state.endpoints) == (None, None)
    with pytest.raises(CorruptError):
        advance(pinned(fleet), {**forged, AUTHORITY_TARGET: b"evil"}, ())


def test_the_rounds_key_cannot_sign_the_role_of_the_family_or_of_the_fleet(fleet, tmp_path):
    key, owner = a_key(tmp_path), a_key(tmp_path, "owner")
    family = delegate_family(
        fleet.repository.targets_metadata(), "motion", [owner.public_key],
        threshold=1, signers=fleet.targets_keys[:1], now=NOW,
    )  # fmt: skip
    fleet.repository.publish(family, {}, NOW)
    delegate(fleet, key)
    name = "models/motion/v2.json"
    for role, forged in (
        ("models-motion", first_targets({name: b"x"}, [key], NOW)),
        ("targets", next_targets(fleet.repository.targets_metadata(),
                                 additions={name: b"x"}, removals=(), signers=[key], now=NOW)),
    ):  # fmt: skip
        with pytest.raises(SigningError, match="not signed by its keys"):
            fleet.repository.publish_roles({role: forged}, {name: b"x"}, NOW)


def test_the_rounds_key_delegates_nothing_on(fleet, tmp_path):
    key = a_key(tmp_path)
    delegate(fleet, key)
    on = Metadata[Targets].from_bytes(first_targets({OURS: b"two"}, (), NOW))
    role = DelegatedRole(
        "models-audio", [key.public_key.keyid], 1, terminating=True, paths=["models/audio/*"]
    )
    on.signed.delegations = Delegations(
        {key.public_key.keyid: key.public_key}, {"models-audio": role}
    )
    on.sign(key)
    with pytest.raises(SigningError, match="delegates to roles"):
        fleet.repository.publish_roles({ROLE: on.to_bytes()}, {OURS: b"two"}, NOW)


def test_a_wider_path_is_not_delegated_to_it(fleet, tmp_path):
    key = a_key(tmp_path)
    signed = delegate_rounds(
        fleet.repository.targets_metadata(), "motion", key.public_key, signers=(), now=NOW
    )
    wide = Metadata[Targets].from_bytes(signed)
    wide.signed.delegations.roles[ROLE].paths = ["models/motion/*"]
    wide.sign(fleet.targets_keys[0])
    with pytest.raises(SigningError, match="delegated more than models/motion/rounds"):
        fleet.repository.publish(wide.to_bytes(), {}, NOW)


@pytest.mark.parametrize("role", ["snapshot", "timestamp", "director", "targets"])
def test_it_is_a_key_of_its_own(fleet, role):
    key = fleet.targets_keys[0] if role == "targets" else getattr(fleet.online, role)
    with pytest.raises(SigningError, match="use two"):
        delegate(fleet, key)


def test_taken_back_it_signs_nothing_more_and_what_it_signed_is_installed_no_more(fleet, tmp_path):
    key = a_key(tmp_path)
    delegate(fleet, key)
    own = first_targets({OURS: b"two"}, [key], NOW)
    fleet.repository.publish_roles({ROLE: own}, {OURS: b"two"}, NOW)
    state = advance(pinned(fleet), fleet.repository.bundle(0, [OURS]), (OURS,)).state
    delegate(fleet, None)
    assert advance(state, fleet.repository.bundle(1, [OURS]), (OURS,)).refused[OURS].code == (
        "unpublished"
    )
    again = next_targets(own, additions={}, removals=(), signers=[key], now=NOW)
    with pytest.raises(SigningError):
        fleet.repository.publish_roles({ROLE: again}, {}, NOW)
    with pytest.raises(SigningError, match="is not delegated"):
        delegate(fleet, None)


def test_whoever_signs_the_delegation_is_shown_what_it_gives(fleet, tmp_path):
    held = fleet.repository.published()
    proposal = propose_rounds(held, "motion", a_key(tmp_path).public_key, now=NOW)
    lines = describe(proposal)
    assert "  · rounds-motion signs models/motion/rounds/* from now on" in lines
    assert any(line.startswith("  + rounds-motion key ") for line in lines)
    assert any(line.startswith("  ! the manager keeps this key") for line in lines)


def of_rounds(number: int, *, slot: str = "motion", family: str = "motion", counter: int = 0):
    _, release, _ = a_release(number)
    release = msgspec.structs.replace(
        release,
        family=family,
        target=f"models/{family}/rounds/{release.version}.json",
        slot=slot,
        counter=counter or release.counter,
    )
    manifest, digest = encode_release(release)
    return (
        manifest,
        release,
        Assigned(target=release.target, digest=digest, counter=release.counter),
    )


def put(made, running, *, slot="motion"):
    manifest, _, assigned = made
    return believe_release(
        manifest, assigned, slot=slot, hardware="generic-linux", running=running,
        running_digest="ab" * 32, floor=running.counter if running else 0,
    )  # fmt: skip


def test_a_release_of_rounds_follows_one_of_its_family():
    _, running, _ = a_release(1)
    assert put(of_rounds(2), running).of_rounds


def test_people_may_send_a_device_back_to_a_release_of_rounds_and_the_rounds_key_may_not():
    made = of_rounds(2)
    other = msgspec.structs.replace(
        a_release(9)[1], family="lock", target="models/lock/09.json", rollback_to=(made[2].digest,)
    )
    assert put(made, other).of_rounds
    with pytest.raises(BeyondRoundsError):
        put(made, msgspec.structs.replace(other, target="models/lock/rounds/09.json"))


@pytest.mark.parametrize(
    ("made", "running", "why"),
    [
        pytest.param(of_rounds(2), None, "nothing runs here", id="an empty slot"),
        pytest.param(
            of_rounds(2, slot="lock"),
            msgspec.structs.replace(
                a_release(1)[1], family="lock", slot="lock", target="models/lock/01.json"
            ),
            "may only follow a release of motion",
            id="the slot of another family",
        ),
        pytest.param(
            of_rounds(2, counter=5_000), a_release(1)[1], "at most 1000", id="a counter far ahead"
        ),
    ],
)
def test_who_has_the_directors_key_as_well_reaches_no_further(made, running, why):
    slot = made[1].slot
    with pytest.raises(BeyondRoundsError, match=why):
        put(made, running, slot=slot)
    assert issubclass(BeyondRoundsError, MismatchError)
