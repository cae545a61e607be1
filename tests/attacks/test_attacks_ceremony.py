"""Rows 7 to 12 again, against people: what a liar has them sign, and what they are shown."""

from collections.abc import Callable
from datetime import timedelta

import pytest
from msgspec.structs import replace
from tuf.api.metadata import (
    DelegatedRole,
    Delegations,
    Metadata,
    Root,
    SuccinctRoles,
    TargetFile,
    Targets,
)

from agent.contract.authority import PERMITS_TARGET, Permit, Permits
from agent.contract.codec import encode
from agent.contract.keys import Ed25519Key, Ed25519Signer
from fleet.errors import SigningError
from fleet.signing.difference import describe
from fleet.signing.metadata import delegate_family, first_targets
from fleet.signing.proposal import (
    Proposal,
    propose_delegation,
    propose_root,
    propose_targets,
    sign_proposal,
)
from fleet.signing.repository import Repository
from fleet.signing.rotation import revoke_key, rotate_role
from tests.signed_fleet import NOW, NOW_MS, SignedFleet

V1 = "models/motion/v1.json"
FORGED = b"a release of the thief's"


@pytest.fixture
def fleet(tmp_path) -> SignedFleet:
    return SignedFleet(tmp_path / "fleet")


def honest_root(fleet: SignedFleet) -> Proposal:
    """Another year for the root in force: nothing changes but its expiry."""
    return propose_root(
        fleet.repository.published(), what="", add={}, remove={}, thresholds={}, now=NOW
    )


def honest_targets(fleet: SignedFleet, **files: bytes) -> Proposal:
    return propose_targets(
        fleet.repository.published(), what="", additions=files, removals=(), now=NOW
    )


def with_root(proposal: Proposal, change: Callable[[Root], object]) -> Proposal:
    held = Metadata[Root].from_bytes(proposal.root)
    change(held.signed)
    return replace(proposal, root=held.to_bytes())


def with_targets(proposal: Proposal, change: Callable[[Targets], object]) -> Proposal:
    held = Metadata[Targets].from_bytes(proposal.metadata["targets"])
    change(held.signed)
    return replace(proposal, metadata={"targets": held.to_bytes()})


def another_key_under_a_known_id(root: Root) -> None:
    keyid = root.roles["root"].keyids[0]
    thief = Ed25519Signer.generate().public_key
    root.keys[keyid] = Ed25519Key(keyid, thief.keytype, thief.scheme, dict(thief.keyval))


def an_id_without_a_key(root: Root) -> None:
    root.roles["targets"].keyids.append("\x1b[2K\x1b[1A")


def files_without_versions(root: Root) -> None:
    root.consistent_snapshot = False


def a_version_ahead(root: Root) -> None:
    root.version += 1


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (another_key_under_a_known_id, "is another: somebody changed this file"),
        (an_id_without_a_key, "names no key"),
        (files_without_versions, "not ours"),
        (a_version_ahead, "not to the next"),
    ],
)
def test_attack_08_a_root_that_would_look_harmless_is_shown_to_nobody(fleet, change, sentence):
    proposal = with_root(honest_root(fleet), change)
    with pytest.raises(SigningError, match=sentence) as refused:
        describe(proposal)
    assert str(refused.value).isprintable()


def test_attack_08_a_manager_publishes_no_root_whose_key_ids_lie(fleet):
    proposal = with_root(honest_root(fleet), another_key_under_a_known_id)
    signed = sign_proposal(proposal, fleet.root_keys())
    held = fleet.repository.published()
    with pytest.raises(SigningError, match="is another"):
        fleet.repository.publish_root(
            signed.root, targets=None, snapshot=fleet.online.snapshot,
            timestamp=fleet.online.timestamp, now=NOW,
        )  # fmt: skip
    assert fleet.repository.published() == held


def delegation(role: str = "models-motion", *, terminating: bool = True, **paths: list[str]):
    def change(targets: Targets) -> None:
        thief = Ed25519Signer.generate().public_key
        delegated = DelegatedRole(role, [thief.keyid], 1, terminating, **paths)
        targets.delegations = Delegations({thief.keyid: thief}, {role: delegated})

    return change


def hash_bins(targets: Targets) -> None:
    thief = Ed25519Signer.generate().public_key
    bins = SuccinctRoles([thief.keyid], 1, 1, "models")
    targets.delegations = Delegations({thief.keyid: thief}, succinct_roles=bins)


def a_name(name: str) -> Callable[[Targets], None]:
    def change(targets: Targets) -> None:
        targets.targets[name] = TargetFile.from_data(name, FORGED, ["sha256"])

    return change


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        pytest.param(delegation(paths=["*"]), "delegated more", id="everything"),
        pytest.param(delegation(paths=["fleet/*"]), "delegated more", id="the fleet's own"),
        pytest.param(
            delegation(paths=["models/motion/*", "models/*/*"]), "delegated more", id="one more"
        ),
        pytest.param(delegation(path_hash_prefixes=["00"]), "delegated more", id="by hash"),
        pytest.param(
            delegation(terminating=False, paths=["models/motion/*"]), "delegated more", id="open"
        ),
        pytest.param(
            delegation("../../evil", paths=["models/motion/*"]), "not a role of ours", id="a path"
        ),
        pytest.param(hash_bins, "could sign any name", id="hash bins"),
        pytest.param(a_name("\x1b[1A\x1b[2Kmodels/a/b"), "no acceptable name", id="an escape"),
        pytest.param(a_name("models/\u202eevil/v1.json"), "no acceptable name", id="right to left"),
        pytest.param(a_name("../../etc/passwd"), "no acceptable name", id="dots"),
    ],
)
def test_attack_12_targets_that_would_look_harmless_are_shown_to_nobody(fleet, change, sentence):
    proposal = with_targets(honest_targets(fleet), change)
    with pytest.raises(SigningError, match=sentence) as refused:
        describe(proposal)
    assert str(refused.value).isprintable()
    signed = sign_proposal(proposal, fleet.targets_keys[:1])
    held = fleet.repository.published()
    with pytest.raises(SigningError, match=sentence):
        fleet.repository.publish_roles(signed.metadata, {PERMITS_TARGET: b"x"}, NOW)
    assert fleet.repository.published() == held


def test_attack_09_an_owner_signs_no_foreign_name_and_delegates_nothing_on(fleet):
    owner = Ed25519Signer.generate()
    fleet.publish({V1: b"one"})
    given = delegate_family(
        fleet.repository.targets_metadata(), "motion", [owner.public_key],
        threshold=1, signers=fleet.targets_keys[:1], now=NOW,
    )  # fmt: skip
    fleet.repository.publish(given, {}, NOW)
    nested = Metadata[Targets].from_bytes(first_targets({}, (), NOW))
    delegation("models-sound", paths=["models/sound/*"])(nested.signed)
    nested.sign(owner)
    for content, files in (
        (first_targets({"models/sound/v1.json": FORGED}, [owner], NOW), "models/sound/v1.json"),
        (first_targets({PERMITS_TARGET: FORGED}, [owner], NOW), PERMITS_TARGET),
        (nested.to_bytes(), None),
    ):
        change = Proposal(
            what="",
            root_before=fleet.repository.published().root_bytes,
            metadata_before={"targets": fleet.repository.targets_metadata()},
            metadata={"models-motion": content},
            files={files: FORGED} if files else {},
        )
        with pytest.raises(SigningError, match=r"may not sign|could sign any name"):
            describe(change)
        with pytest.raises(SigningError):
            fleet.repository.publish_roles(change.metadata, change.files, NOW)


def test_attack_08_a_base_that_is_not_signed_or_not_the_last_hides_nothing(fleet):
    owner = Ed25519Signer.generate()
    fleet.publish({V1: b"one"})
    old = fleet.repository.targets_metadata()
    fleet.publish(removals=[V1])
    unsigned = first_targets({"models/motion/v2.json": FORGED}, (), NOW)
    held = fleet.repository.published()
    plain = honest_targets(fleet)
    given = propose_delegation(held, "motion", [owner.public_key], threshold=1, now=NOW)
    twice = first_targets({"models/motion/v2.json": FORGED}, (), NOW, version=2)
    for proposal, sentence in (
        (replace(plain, metadata_before={"targets": old}), "not to the next"),
        (replace(plain, metadata_before={}), "does not say which targets"),
        (replace(plain, root_before=b""), "nothing is in force, and then what is"),
        (
            replace(
                given,
                metadata_before={"models-motion": unsigned},
                metadata={**given.metadata, "models-motion": twice},
            ),
            "does not say which targets",
        ),
        (
            replace(
                given,
                metadata_before={**given.metadata_before, "models-motion": unsigned},
                metadata={**given.metadata, "models-motion": twice},
            ),
            "not signed by its keys",
        ),
    ):
        with pytest.raises(SigningError, match=sentence):
            describe(proposal)


def test_what_a_delegation_and_a_permit_give_is_told(fleet):
    owner = Ed25519Signer.generate()
    held = fleet.repository.published()
    given = propose_delegation(held, "motion", [owner.public_key], threshold=1, now=NOW)
    assert "  · models-motion signs models/motion/* from now on" in describe(given)
    far = Permit(release="0" * 64, slot="motion", expires_ms=2**53)
    near = Permit(release="1" * 64, slot="motion", devices=("d-1",), expires_ms=NOW_MS)
    permits = encode(Permits(fleet="demo", permits=(far, near)))
    lines = "\n".join(describe(honest_targets(fleet, **{PERMITS_TARGET: permits})))
    assert "of every device, until the end of time" in lines
    assert "of d-1, until 2026-03-01 12:00 UTC" in lines


def test_attack_07_nobody_keeps_a_key_of_the_manager_as_well(fleet):
    held, online = fleet.repository.published(), fleet.online
    plain = {"what": "", "remove": {}, "thresholds": {}, "now": NOW}
    director, root = online.director.public_key, fleet.root_keys()[0].public_key
    with pytest.raises(SigningError, match="use two"):
        propose_root(held, add={"root": [director]}, **plain)
    with pytest.raises(SigningError, match="use two"):
        propose_root(held, add={"targets": [online.timestamp.public_key]}, **plain)
    with pytest.raises(SigningError, match="use two"):
        rotate_role(held, "enrolment", [root], NOW)
    stolen = propose_delegation(held, "motion", [director], threshold=1, now=NOW)
    signed = sign_proposal(stolen, fleet.targets_keys[:1])
    with pytest.raises(SigningError, match="use two"):
        fleet.repository.publish_roles(signed.metadata, {}, NOW)
    with pytest.raises(SigningError, match="an enrolment key already"):
        rotate_role(held, "enrolment", [online.enrolment.public_key], NOW)


def test_a_stolen_key_of_an_owner_is_taken_away_by_naming_the_others(fleet):
    owner = Ed25519Signer.generate()
    given = delegate_family(
        fleet.repository.targets_metadata(), "motion", [owner.public_key],
        threshold=1, signers=fleet.targets_keys[:1], now=NOW,
    )  # fmt: skip
    fleet.repository.publish(given, {}, NOW)
    with pytest.raises(SigningError, match="keys delegate motion --owner KEY"):
        revoke_key(fleet.repository.published(), owner.public_hex, NOW)


def test_a_repository_whose_root_is_misleading_is_still_read(fleet, tmp_path):
    """What was in force before there was any scrutiny stays in force."""
    twin = fleet.copy(tmp_path / "twin")
    later = NOW + timedelta(days=400)
    assert Repository(
        twin.home / "repository", snapshot=fleet.online.snapshot, timestamp=fleet.online.timestamp
    ).refresh(later)
