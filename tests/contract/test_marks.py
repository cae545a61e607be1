"""Marks only rise, and every key counts once."""

import json

import pytest

from agent.contract.marks import Mark, advance_marks, require_distinct_keys, view_root
from agent.errors import MalformedError, RollbackError, UnsignedError

A, B = "aa" * 32, "bb" * 32


def mark(version: int, *keyids: str) -> Mark:
    return Mark(version=version, keyids=keyids or (A,))


def root(publics: dict[str, str], **roles: list[str]) -> bytes:
    plain = {role: [A] for role in ("root", "timestamp", "snapshot", "targets")}
    signed = {
        "version": 3,
        "expires": "2027-01-01T00:00:00Z",
        "keys": {keyid: {"keyval": {"public": public}} for keyid, public in publics.items()},
        "roles": {n: {"keyids": k, "threshold": 1} for n, k in {**plain, **roles}.items()},
    }
    return json.dumps({"signed": signed, "signatures": []}).encode()


def test_gap_1_marks_rise_and_stay_for_roles_that_are_left_out():
    held = {"root": mark(1), "targets": mark(4), "models": mark(2)}
    news = advance_marks(held, {"root": mark(1), "targets": mark(9)})
    assert news == {"root": mark(1), "targets": mark(9), "models": mark(2)}


def test_gap_1_a_lower_version_under_the_same_keys_is_a_rollback():
    with pytest.raises(RollbackError, match="snapshot metadata is version 3"):
        advance_marks({"snapshot": mark(4)}, {"snapshot": mark(3)})


def test_gap_1_a_lower_version_under_other_keys_is_a_recovery_but_never_for_root():
    assert advance_marks({"snapshot": mark(4)}, {"snapshot": mark(1, B)})["snapshot"].version == 1
    with pytest.raises(RollbackError):
        advance_marks({"root": mark(4)}, {"root": mark(3, B)})


def test_gap_2_a_public_key_counts_once_however_it_is_spelled():
    require_distinct_keys(root({A: "1" * 64, B: "2" * 64}, targets=[A, B]))
    for twin in ("ab" * 32, "AB" * 32):
        with pytest.raises(UnsignedError, match="targets"):
            require_distinct_keys(root({A: "ab" * 32, B: twin}, targets=[A, B]))
    with pytest.raises(UnsignedError, match="without a key"):
        require_distinct_keys(root({A: "1" * 64}, targets=[A, B]))


def test_a_root_tells_when_it_expires():
    view = view_root(root({A: "1" * 64}))
    assert (view.version, view.expires_ms) == (3, 1_798_761_600_000)


@pytest.mark.parametrize("broken", [b"", b"{}", b"[" * 9000, b'{"signed":{"version":1}}'])
def test_what_is_no_root_is_malformed(broken):
    with pytest.raises(MalformedError):
        view_root(broken)


def test_new_snapshot_keys_free_what_snapshot_lists_and_nothing_else():
    held = {"snapshot": mark(4), "targets": mark(9), "timestamp": mark(9)}
    assert advance_marks(held, {"snapshot": mark(1, B), "targets": mark(2)})["targets"].version == 2
    with pytest.raises(RollbackError):
        advance_marks(held, {"snapshot": mark(5), "targets": mark(2)})
    with pytest.raises(RollbackError):
        advance_marks(held, {"snapshot": mark(1, B), "timestamp": mark(2)})
