"""Rows 7 and 22 together: a thief of the director sets the time, and is then found out."""

from dataclasses import replace
from datetime import timedelta

import msgspec
import pytest

from agent.contract.authority import AUTHORITY_TARGET
from agent.contract.codec import encode
from agent.contract.keys import Ed25519Signer
from agent.errors import ExpiredError
from agent.update.trust import NotRefreshed, TrustState, error_of
from tests.signed_fleet import NOW, SignedFleet, advance, make_release, pinned, run

RELEASE = make_release()
CENTURY = NOW + timedelta(days=36_500)


@pytest.fixture
def fleet(tmp_path) -> SignedFleet:
    made = SignedFleet(tmp_path / "fleet")
    made.publish_release(RELEASE)
    return made


def bundle(fleet: SignedFleet, *wanted: str) -> dict[str, bytes]:
    fleet.reopen()
    return fleet.repository.bundle(0, wanted)


def change_director(signed: SignedFleet, epoch: int, **changes: object) -> Ed25519Signer:
    """The offline keys name another director."""
    new, held = Ed25519Signer.generate(), signed.repository.authority()
    said = {"director_epoch": epoch, "director_keys": (new.public_hex,), **changes}
    signed.publish({AUTHORITY_TARGET: encode(msgspec.structs.replace(held, **said))})
    return new


def refused(state: TrustState, files: dict[str, bytes]) -> NotRefreshed:
    result = run(state, files, (RELEASE.target,), CENTURY)
    assert isinstance(result, NotRefreshed)
    assert isinstance(error_of(result.refusal), ExpiredError)
    return result


def test_attack_22_the_next_director_is_learnt_although_the_thief_set_the_time_far_ahead(fleet):
    state = advance(pinned(fleet), bundle(fleet)).state
    online = change_director(fleet, 2)
    timestamp = Ed25519Signer.generate()
    (fleet.home / "repository/metadata/2.root.json").write_bytes(
        fleet.rotate(timestamp=[timestamp])
    )
    fleet.online = replace(fleet.online, timestamp=timestamp)
    files = fleet.forge(bundle(fleet, RELEASE.target))
    learnt = refused(state, files).state
    assert learnt is not None
    assert learnt.who_directs().director_keys == (online.public_hex,)
    assert learnt.root_version == 2
    assert learnt.marks["targets"].version == 3
    again = advance(learnt, files, (RELEASE.target,))
    assert set(again.targets) == {RELEASE.target}


def test_attack_22_only_a_later_director_is_learnt_from_what_has_run_out(fleet, tmp_path):
    files = bundle(fleet)
    old = fleet.copy(tmp_path / "old")
    change_director(fleet, 2)
    state = advance(pinned(fleet), bundle(fleet)).state
    assert refused(state, bundle(fleet)).state is None
    change_director(old, 2)  # the same epoch, other keys: signed, but not later
    change_director(old, 2)
    for lie in (files, bundle(old)):
        kept = refused(state, lie).state or state
        assert kept.who_directs() == state.who_directs()
    change_director(fleet, 3, fleet="other")
    kept = refused(state, bundle(fleet)).state or state
    assert kept.who_directs() == state.who_directs()


def test_attack_22_a_thief_of_online_keys_names_no_director_by_running_out(fleet):
    state = advance(pinned(fleet), bundle(fleet)).state
    held, thief = fleet.repository.authority(), Ed25519Signer.generate()
    said = msgspec.structs.replace(held, director_epoch=9, director_keys=(thief.public_hex,))
    files = {**fleet.forge(bundle(fleet)), AUTHORITY_TARGET: encode(said)}
    kept = refused(state, files).state or state
    assert kept.who_directs() == state.who_directs()
