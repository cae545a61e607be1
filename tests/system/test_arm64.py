"""The agent really runs as aarch64, under emulation, and the emulation leaves nothing behind.

Where this machine cannot emulate, the reason is said at the end of the run (``measured``).
"""

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.brokers import eventually

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = ROOT / "scripts" / "arm64_program"
CANNOT = 69
sys.path.insert(0, str(PROGRAM))

import check  # noqa: E402 - of the checkout's scripts, not a package
import room  # noqa: E402
import tree  # noqa: E402

pytestmark = [pytest.mark.system, pytest.mark.timeout(1500)]
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="scripts/arm64 needs root")


def arm64(*words: object, before: tuple[str, ...] = (), **settings: object):
    """Run scripts/arm64 to its end."""
    command = [*before, sys.executable, PROGRAM / "main.py", *words]
    environment = os.environ | {n: str(v) for n, v in settings.items()}
    return subprocess.run(
        list(map(str, command)), capture_output=True, text=True, check=False, env=environment
    )


@pytest.fixture(name="made", scope="module")
def fixture_made():
    """The tree, made now if it has to be."""
    ended = arm64("make")
    if ended.returncode == CANNOT:
        pytest.skip(ended.stderr.strip())
    assert ended.returncode == 0, ended.stderr


def test_an_aarch64_agent_enrols_updates_infers_and_learns(record_property):
    ended = arm64("check")
    if ended.returncode == CANNOT:
        why = ended.stderr.strip().splitlines()[-1].removeprefix("arm64: ")
        sentence = f"scripts/arm64 check was not run: {why}"
        record_property("measured", sentence)
        pytest.skip(sentence)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    record_property("measured", ended.stdout.strip().splitlines()[-1])


def test_a_command_has_its_own_exit_status_and_the_machine_of_a_pi(made):
    program = (
        "import platform, sys; print(platform.machine(), open('/proc/cpuinfo').read()); sys.exit(7)"
    )
    ended = arm64("python", "-c", program)
    assert ended.returncode == 7
    assert ended.stdout.startswith("aarch64")
    assert "0xd0b" in ended.stdout
    older = arm64("python", "-c", program, QEMU_CPU="cortex-a72")
    assert "0xd08" in older.stdout
    assert arm64("sh", "-c", "kill -9 $$").returncode == 128 + 9
    assert arm64("no-such-program").returncode == 127


def test_what_the_files_say_of_the_processor_is_what_qemu_says(made):
    program = (
        "import ctypes; c = ctypes.CDLL(None); c.getauxval.restype = ctypes.c_ulong;"
        "print(bin(c.getauxval(16)).count('1'));"
        "print(len(open('/proc/cpuinfo').read().split('Features')[1].splitlines()[0].split()) - 1)"
    )
    for processor in ("cortex-a76", "cortex-a72"):
        ended = arm64("python", "-c", program, QEMU_CPU=processor)
        bits, words = ended.stdout.split()
        assert bits == words, ended


def test_a_command_changes_neither_tree_nor_checkout(made, tmp_path):
    words = f"touch /fieldfare/x; touch /opt/x; touch {tmp_path}/mine; touch /root/x"
    ended = arm64("sh", "-c", words)
    assert ended.stderr.count("Read-only file system") == 2
    assert (tmp_path / "mine").exists()
    assert not (tree.cache_folder() / "tree/root/x").exists()


def test_a_second_run_needs_no_network(made):
    ended = arm64("fieldfare-agent", "--version", before=("unshare", "--net"))
    assert ended.returncode == 0, ended.stderr


def test_a_killed_run_leaves_no_process_and_no_mount(made, tmp_path):
    words = [sys.executable, str(PROGRAM / "main.py"), "sh", "-c"]
    words.append(f"sleep 987654 & echo there > {tmp_path}/there; sleep 987654")
    for how, status in ((signal.SIGKILL, -9), (signal.SIGTERM, 128 + 15)):
        (tmp_path / "there").unlink(missing_ok=True)
        running = subprocess.Popen(words)
        eventually((tmp_path / "there").exists)
        assert len(_processes("987654")) >= 2
        running.send_signal(how)
        assert running.wait(30) == status
        eventually(lambda: not _processes("987654"))
    assert str(tree.cache_folder()) not in Path("/proc/self/mountinfo").read_text()


def test_an_interrupted_making_leaves_nothing_that_would_be_used(tmp_path):
    words = [sys.executable, str(PROGRAM / "main.py"), "make"]
    environment = os.environ | {tree.VARIABLE: str(tmp_path / "cache")}
    log = tmp_path / "said"
    with log.open("wb") as said:
        making = subprocess.Popen(words, env=environment, stdout=said, stderr=said)
    half = tmp_path / "cache/tree/usr"
    eventually(lambda: half.exists() or making.poll() is not None, seconds=120)
    if making.poll() == CANNOT:
        pytest.skip(log.read_text().strip())
    making.send_signal(signal.SIGTERM)
    assert making.wait(30) == 128 + 15
    eventually(lambda: not _processes(str(tmp_path / "cache")))
    assert not (tmp_path / "cache/tree/.ready").exists()
    met = []

    def make() -> None:
        met.append(half.exists())
        half.mkdir(parents=True)

    tree._once(tmp_path / "cache/tree", "recipe", 1, make)
    assert met == [False]  # nothing of the first try was there any more


@as_root
def test_a_first_run_without_network_says_so(tmp_path):
    ended = arm64("make", before=("unshare", "--net"), FIELDFARE_ARM64_DIR=tmp_path)
    assert ended.returncode == CANNOT
    assert ended.stderr.count("without a network") == 1
    assert not (tmp_path / "tree/.ready").exists()


def test_a_part_is_made_again_after_a_failure_and_when_its_recipe_changes(tmp_path):
    place, made = tmp_path / "part", []

    def make() -> None:
        place.mkdir()
        (place / "half").touch()
        made.append(1)
        if len(made) == 1:
            raise tree.UnmadeError

    with pytest.raises(tree.UnmadeError):
        tree._once(place, "one", 1, make)
    tree._once(place, "one", 1, make)
    tree._once(place, "one", 1, make)
    assert len(made) == 2
    tree._once(place, "two", 1, make)
    assert len(made) == 3


def test_too_small_a_disk_is_said_before_anything_is_made(tmp_path):
    with pytest.raises(room.CannotError, match=r"needs .* MB of disk and .* MB are free"):
        tree._once(tmp_path / "part", "one", 2**60, lambda: None)
    assert not (tmp_path / "part").exists()


def test_a_registration_serves_a_tree_only_if_it_is_on_and_keeps_its_interpreter(tmp_path):
    entry = tmp_path / "entry"
    assert not room._serves(entry)
    for text, serves in (
        ("enabled\ninterpreter /usr/bin/q\nflags: POF\n", True),
        ("enabled\ninterpreter /usr/bin/q\nflags: PO\n", False),
        ("disabled\ninterpreter /usr/bin/q\nflags: POF\n", False),
    ):
        entry.write_text(text)
        assert room._serves(entry) is serves


@pytest.mark.parametrize(
    "there", [[1.0, 0.1], [1.0, float("nan")], [1.0]], ids=["far", "not a number", "shorter"]
)
def test_answers_that_differ_fail_and_nothing_is_built_on_them(tmp_path, capsys, there):
    answers = check._Answers(tmp_path, ())
    answers._here = {"runtime/motion-int8/probabilities": np.array([1.0, 0.0])}
    answers._there = {"runtime/motion-int8/probabilities": np.array(there)}
    page = check.Page()
    assert not page.line("alike", lambda: answers.compare("int8"))
    assert not page.line("builds on it", lambda: "never", after=False)
    said = capsys.readouterr().out.splitlines()
    assert page.failed
    assert [line.split()[0] for line in said] == ["FAILED", "not"]
    assert "at most 0.0001 may be" in said[0]


@as_root
@pytest.mark.parametrize(
    ("before", "sentence"),
    [
        pytest.param(("--reuid=65534", "--clear-groups"), "needs root", id="nobody"),
        pytest.param(
            ("--bounding-set=-sys_admin", "--inh-caps=-sys_admin"), "cannot be made", id="no mounts"
        ),
    ],
)
def test_who_may_not_mount_gets_one_sentence(made, before, sentence):
    ended = arm64("true", before=(shutil.which("setpriv") or "setpriv", *before))
    assert ended.returncode == CANNOT
    assert sentence in ended.stderr
    assert len(ended.stderr.splitlines()) == 1


@pytest.mark.parametrize("words", [("--nonsense",), ("check", "--nonsense"), ()])
def test_a_wrong_word_is_usage(words):
    ended = arm64(*words)
    assert ended.returncode == 2
    assert "scripts/arm64" in ended.stdout + ended.stderr


def test_what_is_not_run_under_emulation_exists():
    ended = arm64("tests", "--help", before=("setpriv", "--reuid=65534", "--clear-groups"))
    passed_over = re.findall(r"not run under emulation: (\S+)::(\w+): ", ended.stderr)
    assert passed_over
    for file, name in passed_over:
        assert f"def {name}(" in (ROOT / file).read_text(), name


def _processes(word: str) -> list[str]:
    """Return the command lines of running processes that hold a word."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            line = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
        if word in line and int(folder.name) != os.getpid():
            found.append(line)
    return found
