"""Key files: made once, opened by their owner, honest about having no passphrase."""

import os
import stat
from pathlib import Path

import msgspec
import pytest

from fleet.errors import SigningError
from fleet.signing import keys

FIXTURES = Path(__file__).parents[1] / "fixtures"
PASSPHRASE = "correct horse battery"


def test_a_key_opens_under_its_passphrase_only(tmp_path, monkeypatch):
    monkeypatch.setattr(keys, "MEMORY_BYTES", 8 * 1024 * 1024)
    path = tmp_path / "keys" / "targets-1.json"
    made = keys.create(path, PASSPHRASE)
    assert keys.load(path, PASSPHRASE).public_hex == made.public_hex
    for wrong, why in (
        ("", "is encrypted"),
        ("correct horse", "does not open"),
        (PASSPHRASE.upper(), "does not open"),
    ):
        with pytest.raises(SigningError, match=why):
            keys.load(path, wrong, dev=True)
    assert bytes(made.signing).hex() not in path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_a_key_is_never_overwritten(tmp_path):
    path = tmp_path / "k.json"
    keys.create(path, "", dev=True)
    before = path.read_bytes()
    with pytest.raises(SigningError, match="exists already"):
        keys.create(path, "", dev=True)
    assert path.read_bytes() == before


def test_a_key_without_passphrase_says_so_and_serves_development_only(tmp_path):
    path = tmp_path / "k.json"
    made = keys.create(path, "", dev=True)
    assert '"none, development only"' in path.read_text()
    assert keys.load(path, "", dev=True).public_hex == made.public_hex
    with pytest.raises(SigningError, match="must not serve a real fleet"):
        keys.load(path, "")


@pytest.mark.parametrize("passphrase", ["", "short"])
def test_a_short_passphrase_makes_no_file(tmp_path, passphrase):
    with pytest.raises(SigningError, match=r"passphrase|characters"):
        keys.create(tmp_path / "k.json", passphrase)
    assert list(tmp_path.iterdir()) == []


def test_a_key_that_others_may_read_is_refused(tmp_path):
    path = tmp_path / "k.json"
    keys.create(path, "", dev=True)
    path.chmod(0o644)
    with pytest.raises(SigningError, match="chmod 600"):
        keys.load(path, "", dev=True)


@pytest.mark.parametrize(
    "changes",
    [
        {"v": 2},
        {"public": "0" * 64},
        {"secret": "00"},
        {"protection": "rot13"},
        {"protection": "argon2id-secretbox", "salt": "00" * 16, "ops": 1, "memory_bytes": 8192},
        {"protection": "argon2id-secretbox", "salt": "00", "ops": 1, "memory_bytes": 8192},
        {"memory_bytes": 2**40},
    ],
)
def test_a_broken_key_file_ends_in_one_sentence(tmp_path, changes):
    path = tmp_path / "k.json"
    keys.create(path, "", dev=True)
    path.write_bytes(msgspec.json.encode({**msgspec.json.decode(path.read_bytes()), **changes}))
    with pytest.raises(SigningError) as raised:
        keys.load(path, PASSPHRASE, dev=True)
    assert "\n" not in str(raised.value)


def test_a_pipe_in_the_place_of_a_key_holds_nobody(tmp_path):
    os.mkfifo(tmp_path / "k.json", 0o600)
    with pytest.raises(SigningError, match="is not a file"):
        keys.load(tmp_path / "k.json", PASSPHRASE)
    with pytest.raises(SigningError, match="is not a file"):
        keys.read_public(Path("/dev/zero"))


def test_the_mode_that_counts_is_that_of_the_file_that_is_read(tmp_path, monkeypatch):
    """A name that points elsewhere after it was looked at gains nothing."""
    honest, swapped = tmp_path / "k.json", tmp_path / "swapped.json"
    keys.create(honest, "", dev=True)
    keys.create(swapped, "", dev=True)
    swapped.chmod(0o644)
    true_open = os.open

    def swap(path: Path, flags: int) -> int:
        swapped.replace(honest)
        return true_open(path, flags)

    monkeypatch.setattr(os, "open", swap)
    with pytest.raises(SigningError, match="open to other users"):
        keys.load(honest, "", dev=True)


def test_a_key_that_belongs_to_another_user_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "k.json"
    keys.create(path, "", dev=True)
    monkeypatch.setattr(os, "getuid", lambda: path.stat().st_uid + 1)
    if path.stat().st_uid:
        with pytest.raises(SigningError, match="belongs to another user"):
            keys.load(path, "", dev=True)
    else:  # root's files are nobody else's to change
        keys.load(path, "", dev=True)


def test_a_missing_key_file_ends_in_one_sentence(tmp_path):
    with pytest.raises(SigningError, match="cannot be read"):
        keys.load(tmp_path / "k.json", "")


@pytest.mark.parametrize(("name", "passphrase"), [("key", PASSPHRASE), ("key-dev", "")])
def test_key_files_of_version_1_open_for_ever(tmp_path, name, passphrase):
    path = tmp_path / "k.json"
    path.write_bytes((FIXTURES / f"{name}-v1.json").read_bytes())
    path.chmod(0o600)
    assert len(keys.load(path, passphrase, dev=True).public_hex) == 64
