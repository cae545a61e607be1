"""``fieldfare keys``: keys of people and programs, and what is shown of the roles."""

import json
import stat
import sys
from pathlib import Path

import pytest
from nacl.signing import SigningKey

from fleet.__main__ import open_door
from fleet.cli.program import main
from fleet.errors import SigningError
from fleet.signing import keys
from fleet.signing.signers import open_signer, public_key_of
from tests.manager_home import make_home

PASSPHRASE = "correct horse battery"
SEED = bytes(range(32))
PROGRAM = """
import sys
from nacl.signing import SigningKey
key = SigningKey(bytes(range(32)))
if sys.argv[-1] == "--public":
    print(bytes(key.verify_key).hex())
else:
    print(key.sign(sys.stdin.buffer.read() + {spoil!r}).signature.hex())
"""


def never(path: Path) -> str:
    raise AssertionError(f"asked for the passphrase of {path}")


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    try:
        main(open_door, words)
        status = 0
    except SystemExit as ended:
        status = int(ended.code or 0)
    out, err = capsys.readouterr()
    return status, out, err


def passphrase_file(folder: Path) -> Path:
    path = folder / "passphrase"
    path.write_text(PASSPHRASE + "\n")
    return path


def program(folder: Path, spoil: bytes = b"") -> str:
    path = folder / "signer.py"
    path.write_text(PROGRAM.format(spoil=spoil))
    return f"command:{sys.executable} {path}"


def test_a_new_key_is_encrypted_private_and_prints_its_public_half(tmp_path, capsys):
    file = tmp_path / "alice.json"
    words = ("keys", "new", str(file), "--passphrase-file", str(passphrase_file(tmp_path)))
    status, out, _ = run(capsys, *words)
    assert status == 0
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    opened = keys.load(file, PASSPHRASE)
    assert f"public:{opened.public_hex}" in out
    assert bytes(opened.signing).hex() not in file.read_text()
    status, _, err = run(capsys, *words)
    assert status == 5
    assert "never overwritten" in err


def test_an_encrypted_key_without_its_passphrase_says_how_to_give_it(tmp_path):
    keys.create(tmp_path / "locked.json", PASSPHRASE)
    with pytest.raises(SigningError, match="encrypted: say --passphrase-file"):
        keys.load(tmp_path / "locked.json", "")
    with pytest.raises(SigningError, match="does not open"):
        keys.load(tmp_path / "locked.json", "another passphrase")


def test_a_file_address_asks_only_for_what_is_encrypted(tmp_path):
    plain = keys.create(tmp_path / "plain.json", "", dev=True)
    locked = keys.create(tmp_path / "locked.json", PASSPHRASE)
    asked = []

    def ask(path: Path) -> str:
        asked.append(path.name)
        return PASSPHRASE

    for signer, address in ((plain, "plain.json"), (locked, "locked.json")):
        opened = open_signer(f"file:{tmp_path / address}", ask, dev=True)
        assert opened.public_key.keyid == signer.public_key.keyid
        assert public_key_of(str(tmp_path / address)).keyid == signer.public_key.keyid
    assert asked == ["locked.json"]
    with pytest.raises(SigningError, match="made for development"):
        open_signer(str(tmp_path / "plain.json"), never)


def test_a_program_signs_and_its_answer_is_verified(tmp_path):
    signer = open_signer(program(tmp_path), never)
    assert signer.public_key.public_hex == bytes(SigningKey(SEED).verify_key).hex()
    signature = signer.sign(b"payload")
    signer.public_key.verify_signature(signature, b"payload")
    with pytest.raises(SigningError, match="not a signature by its key"):
        open_signer(program(tmp_path, b"spoilt"), never).sign(b"payload")


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("file:", "names no key"),
        ("file:/nowhere/key.json", "cannot be read"),
        ("command:/nowhere/program", "cannot be started"),
        ("command:false", "status 1"),
        ("command:echo hello", "64 lower-case hex digits"),
        ("command:'unclosed", "cannot be taken apart"),
        ("public:" + "ab" * 32, "its owner has to sign"),
    ],
)
def test_an_address_that_cannot_sign_says_why(address, why):
    with pytest.raises(SigningError, match=why):
        open_signer(address, never)


def test_a_public_address_must_be_a_key():
    assert public_key_of("public:" + "ab" * 32).public_hex == "ab" * 32
    for wrong in ("ab", "AB" * 32, "zz" * 32):
        with pytest.raises(SigningError, match="hex digits"):
            public_key_of(f"public:{wrong}")


def test_status_fails_only_when_something_runs_out_within_the_time(tmp_path, capsys):
    home = str(make_home(tmp_path).home)
    status, out, err = run(capsys, "keys", "status", "--home", home)
    assert status == 0, err
    assert "2 of 3" in out
    status, _, err = run(capsys, "keys", "status", "--home", home, "--warn", "91d")
    assert status == 5
    assert "targets in 89 days" in err
    assert "root" not in err
    status, out, _ = run(capsys, "keys", "status", "--home", home, "-o", "json", "--warn", "400d")
    assert status == 5
    due = {view["role"]: view["due"] for view in json.loads(out)}
    assert due == {"root": True, "targets": True, "snapshot": False, "timestamp": False}
    status, _, err = run(capsys, "keys", "status", "--home", home, "--warn", "soon")
    assert status == 3
    assert "30d" in err
