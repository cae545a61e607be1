"""What a key holder is shown: all that changes, and all that is signed again."""

from pathlib import Path

import pytest
from msgspec.structs import replace

from agent.contract.authority import PERMITS_TARGET, Permit, Permits
from agent.contract.codec import encode
from agent.contract.keys import Ed25519Signer
from fleet.errors import SigningError
from fleet.signing import keys as key_files
from fleet.signing.difference import describe
from fleet.signing.metadata import delegate_family
from fleet.signing.proposal import propose_root, propose_targets, sign_proposal
from fleet.signing.rotation import propose_authority, revoke_key, rotate_role
from tests.ceremonies import Person, first_trust, follow, found_fleet, running
from tests.signed_fleet import NOW, NOW_MS, SignedFleet


@pytest.fixture
def person(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Person:
    monkeypatch.setattr(key_files, "MEMORY_BYTES", 8 * 1024 * 1024)
    return Person(tmp_path, capsys)


@pytest.fixture
def fleet(tmp_path: Path) -> SignedFleet:
    return SignedFleet(tmp_path / "fleet")


def short(signer: Ed25519Signer) -> str:
    return signer.public_key.keyid[:16]


def test_an_authority_shows_each_key_that_comes_and_goes(fleet):
    held, thief, online = fleet.repository.published(), Ed25519Signer.generate(), fleet.online
    sneaked = replace(
        held.authority,
        director_epoch=2,
        director_keys=(thief.public_hex,),
        enrolment_keys=(*held.authority.enrolment_keys, thief.public_hex),
    )
    lines = describe(propose_authority(held, "rotate director", sneaked, NOW))
    said = {line.strip() for line in lines}
    assert {
        "- director epoch 1", "+ director epoch 2",
        f"- director key {short(online.director)}", f"+ director key {short(thief)}",
        f"enrolment key {short(online.enrolment)}", f"+ enrolment key {short(thief)}",
    } <= said  # fmt: skip


def test_what_a_proposal_says_was_in_a_target_must_have_been_in_it(fleet):
    held = fleet.repository.published()
    proposal = rotate_role(held, "director", [Ed25519Signer.generate().public_key], NOW)
    name, content = next(iter(proposal.files_before.items()))
    with pytest.raises(SigningError, match="is not the one that was signed"):
        describe(replace(proposal, files_before={name: proposal.files[name]}))
    with pytest.raises(SigningError, match="it is not"):
        describe(replace(proposal, files_before={PERMITS_TARGET: content}))
    old = "\n".join(describe(replace(proposal, files_before={})))  # as proposals of before
    assert "what it said before is not in this file" in old


def test_an_added_permit_is_shown_beside_the_one_that_stays(fleet):
    stays = Permit(release="1" * 64, slot="motion", expires_ms=NOW_MS)
    fleet.publish({PERMITS_TARGET: encode(Permits(fleet="demo", permits=(stays,)))})
    comes = replace(stays, release="2" * 64)
    both = encode(Permits(fleet="demo", permits=(stays, comes)))
    held = fleet.repository.published()
    lines = describe(
        propose_targets(held, what="", additions={PERMITS_TARGET: both}, removals=(), now=NOW)
    )
    assert [line.strip()[:18] for line in lines if "may return" in line] == [
        "1111111111111111 m", "+ 2222222222222222",
    ]  # fmt: skip


def test_a_list_that_a_thief_may_have_signed_is_shown_whole_before_it_is_signed_anew(fleet):
    owner = Ed25519Signer.generate()
    given = delegate_family(
        fleet.repository.targets_metadata(), "sound", [owner.public_key],
        threshold=1, signers=fleet.targets_keys[:1], now=NOW,
    )  # fmt: skip
    fleet.repository.publish(given, {}, NOW)
    fleet.publish({"models/motion/v9.json": b"added by the thief"})
    stolen = fleet.targets_keys[0]
    proposal = revoke_key(fleet.repository.published(), stolen.public_hex, NOW)
    said = [line.strip() for line in describe(proposal)]
    assert any(line.startswith("= models/motion/v9.json sha256 ") for line in said)
    assert f"director key {short(fleet.online.director)}" in said
    assert "= models-sound signs models/sound/*, with the keys" in said
    assert short(owner) in said
    done = sign_proposal(proposal, [*fleet.root_keys()[:2], fleet.targets_keys[1]])
    assert [line.strip() for line in describe(done)] == said


def test_a_role_that_can_lose_no_key_any_more_is_told(fleet):
    held = fleet.repository.published()
    gone = held.root.roles["root"].keyids[0]
    plain = {"what": "", "add": {}, "thresholds": {}, "now": NOW}
    lines = describe(propose_root(held, remove={"root": [gone]}, **plain))
    assert "  ! from now on no root key may be lost: all 2 must sign" in lines


def test_targets_and_a_family_are_renewed_without_a_release(person):
    home = found_fleet(person)
    secret = ("--passphrase-file", person.secret)
    with running(home) as manager:
        out = person("keys", "renew", "targets", "--home", home, "--key", person.key("targets-1"),
                     *secret, "--yes")  # fmt: skip
        assert "targets version 1 → 2" in out
        assert "= 1 targets stay as they are" in out
        assert follow(manager, first_trust(home)).state.marks["targets"].version == 2
        for role, words in (
            ("root", "keys root propose"),
            ("timestamp", "repo refresh"),
            ("models-none", "is not in force"),
        ):
            status, _, err = person.tries("keys", "renew", role, "--home", home, "--yes")
            assert (status, words in err) == (5, True)


def test_a_key_is_called_by_the_same_id_everywhere(person):
    home = found_fleet(person)
    known = person("keys", "show", person.key("root-1"), home / "keys/online/director.json")
    root, director = (line.split()[0] for line in known.splitlines())
    status = person("keys", "status", "--home", home)
    assert f"director epoch 1, key {director}" in status
    assert root in status
    founding = person.tries("keys", "root", "sign", person.folder / "founding.json",
                            "--key", person.key("root-1"))[1]  # fmt: skip
    assert f"with key {root}" in founding
    assert f"+ director key {director}" in founding
