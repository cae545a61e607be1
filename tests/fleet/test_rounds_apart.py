"""An operator's app has no network, and is not root where another user can read the program."""

import logging
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import pytest

from fleet.rounds.host import FlowerChild
from fleet.rounds.pipe import Apart, read_from_child, write_word
from tests.manager_home import ROOT
from tests.small_rounds import World, conductor, drive, plan, three_devices

APPS = ROOT / "tests" / "apps"
as_root = pytest.mark.skipif(os.getuid() != 0, reason="only root has something to give up")


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user can reach."""
    folder = Path(tempfile.mkdtemp(prefix="fieldfare-apart-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def test_an_app_reaches_nothing_where_the_log_says_so(tmp_path: Path, caplog):
    caplog.set_level(logging.INFO, logger="fleet.rounds.host")
    shutil.copy(APPS / "reaching_app.py", tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        (tmp_path / "port.txt").write_text(str(listener.getsockname()[1]))
        world = World()
        asked = plan(app="reaching_app:app", app_folder=str(tmp_path))
        state = drive(conductor(world, asked, launch=FlowerChild), world, three_devices())

    (told,) = [r.getMessage() for r in caplog.records if r.name == "fleet.rounds.host"]
    reached = "somebody" if "network=yes" in told else "nobody"
    assert f"reached {reached}" in state.why
    assert f"user {told.partition('user=')[2].split()[0]} " in state.why
    assert ("keeps the network" in told) == ("network=yes" in told)


PROGRAM = """
import os, sys
from pathlib import Path
from fleet.rounds.apart import leave_root
home, readable = sys.argv[1], [Path(p) for p in sys.argv[2:]]
os.setgroups([4321])
groups = os.getgroups()
print(leave_root(readable, home))
print(os.getresuid(), os.getresgid(), os.getgroups() == groups)
try:
    Path(home, "mine").write_text("x")
    print("writes its home")
    Path("/etc/shadow").read_bytes()
    print("reads secrets")
except PermissionError as why:
    print(why.strerror)
"""


def leave(*words: Path) -> list[str]:
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM, *map(str, words)],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    return ended.stdout.splitlines()


@as_root
def test_root_becomes_another_user_for_good(open_folder: Path):
    home, modules = open_folder / "home", open_folder / "modules"
    home.mkdir(mode=0o700)
    modules.mkdir()
    modules.joinpath("a.py").write_text("")

    why, ids, wrote, read = leave(home, modules)

    assert (why, wrote, read) == ("", "writes its home", "Permission denied")
    assert "0" not in ids.partition("False")[0].replace("(", "").replace(")", "").split(", ")


@as_root
@pytest.mark.parametrize("closed", ["folder", "module"])
def test_root_stays_root_where_the_other_user_could_not_read_the_app(
    open_folder: Path, closed: str
):
    home, modules = open_folder / "home", open_folder / "modules"
    home.mkdir(mode=0o700)
    modules.mkdir(mode=0o700 if closed == "folder" else 0o755)
    modules.joinpath("a.py").touch(mode=0o600)

    why, ids, wrote, read = leave(home, modules)

    assert why.startswith("it stays root: user ")
    assert why.endswith(f" cannot read {modules}")
    assert ids == "(0, 0, 0) (0, 0, 0) True"
    assert (wrote, read) == ("writes its home", "reads secrets")


def test_the_first_word_of_the_child_says_what_it_is():
    pipe = BytesIO()
    word = Apart(user=65534, network=False, why="")
    write_word(pipe, word)
    pipe.seek(0)
    assert read_from_child(pipe) == word
