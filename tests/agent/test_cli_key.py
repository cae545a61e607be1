"""``fieldfare-agent key``: what an operator lists before a device joins."""

import fcntl
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import mkdtemp

import pytest
from click.testing import CliRunner
from nacl.signing import VerifyKey

from agent.cli import cli
from agent.contract.envelope import device_id
from agent.errors import BusyError

ROOT = Path(__file__).resolve().parents[2]


def key(state_dir: Path, output: str) -> str:
    done = CliRunner().invoke(cli, ["key", "--state-dir", str(state_dir), "-o", output])
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.output


def test_the_first_call_makes_the_key_and_every_later_one_shows_it(tmp_path: Path):
    made = json.loads(key(tmp_path / "new", "json"))
    assert made["device"] == device_id(VerifyKey(bytes.fromhex(made["key"])))
    assert key(tmp_path / "new", "csv") == f"{made['key']},{made['device']}\n"
    assert key(tmp_path / "new", "text") == f"device  {made['device']}\nkey     {made['key']}\n"


def test_the_secret_half_is_not_shown(tmp_path: Path):
    words = "".join(key(tmp_path, output) for output in ("text", "json", "csv"))
    assert json.loads((tmp_path / "identity.json").read_text())["seed"] not in words


def test_a_running_agent_is_not_disturbed_and_no_second_key_is_made(tmp_path: Path):
    shown = key(tmp_path, "csv")
    with (tmp_path / "lock").open("a") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert key(tmp_path, "csv") == shown
        (tmp_path / "identity.json").unlink()
        with pytest.raises(BusyError):
            key(tmp_path, "csv")
    assert not (tmp_path / "identity.json").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_key_that_root_asks_for_belongs_to_the_agent(tmp_path: Path):
    state = Path(mkdtemp(prefix="fieldfare-key-"))
    try:
        os.chown(state, 65534, 65534)
        program = [sys.executable, "-m", "agent", "key", "--state-dir", str(state), "-o", "csv"]
        done = subprocess.run(program, capture_output=True, text=True, check=True, cwd=ROOT)
        assert done.stdout.count(",") == 1
        assert (state / "identity.json").stat().st_uid == 65534
    finally:
        shutil.rmtree(state)
