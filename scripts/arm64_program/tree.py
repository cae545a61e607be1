"""The cached arm64 tree and its two environments: made once, and never used half made.

    DIRECTORY/tree               Debian 12 for arm64, made by mmdebstrap
    DIRECTORY/tree/opt/device    what a device has: agent, onnxruntime, LiteRT, tflite-runtime
    DIRECTORY/tree/opt/dev       what tests need; made when ``scripts/arm64 tests`` first runs

Rule 1: a part counts as made when its file ``.ready`` holds what it was made from; that
        file is written last. Without it, or with other words in it, the part is made again.
Rule 2: whoever uses the tree holds a shared lock, whoever makes a part the exclusive one;
        children hold it too, so that what outlives a killed maker is waited for.
Rule 3: packages are aarch64 wheels, fetched and unpacked by this machine's own programs;
        under emulation only Debian's package scripts and ``python3 -m venv`` run.
"""

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from room import CANNOT, CHECKOUT, DEVELOPER, DEVICE, CannotError

ROOT = Path(__file__).resolve().parents[2]
PINS = ROOT / "scripts" / "requirements"
VARIABLE = "FIELDFARE_ARM64_DIR"
SUITE = "bookworm"
INCLUDED = "python3,python3-venv"
PROGRAMS = {
    "qemu-user-static": "/usr/bin/qemu-aarch64-static",
    "mmdebstrap": "/usr/bin/mmdebstrap",
    "arch-test": "/usr/bin/arch-test",
}
_ROOM = Path(__file__).with_name("room.py")
_UV = (str(ROOT / ".venv/bin/uv"), "pip", "install", "--native-tls", "--link-mode", "copy")
_PLATFORM = ("--python-platform", "aarch64-manylinux_2_36", "--python-version", "3.11")
_HOST_PYTHON = sys.version_info[:2]
_TREE_PYTHON = (3, 11)
_TREE_BYTES = 700_000_000
"""What mmdebstrap needs at its peak, packages included."""


_LAST_WORDS = 1500
_STEP = "I: "
"""How mmdebstrap begins a line about its next step."""
_NO_NETWORK = re.compile(
    "Temporary failure resolving|Could not resolve|Could not connect|Unable to connect|"
    "Network is unreachable|error sending request|dns error"
)


class UnmadeError(Exception):
    """A part of the tree could not be made although nothing was missing for it."""


def say(words: str) -> None:
    """Say on standard error what is being done."""
    print(f"arm64: {words}", file=sys.stderr, flush=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """A virtual environment in the tree.

    Attributes:
        place: Its folder, as seen in the tree.
        pins: The hash-pinned requirement file that it is made from.
        size_bytes: What it takes on the disk.

    """

    place: str
    pins: Path
    size_bytes: int


DEVICE_ENVIRONMENT = Environment(
    place=DEVICE, pins=PINS / "device-runtimes.txt", size_bytes=400_000_000
)
TEST_ENVIRONMENT = Environment(place=DEVELOPER, pins=PINS / "dev.txt", size_bytes=1_000_000_000)


class Cache:
    """The folder of the tree, and the lock on it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.tree = folder / "tree"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
            os.set_inheritable(self._lock, True)  # noqa: FBT003 -- Rule 2: held by children too
        except OSError as why:
            raise CannotError(f"{folder} cannot be used: {why.strerror}") from why

    def open(self, environment: Environment) -> None:
        """Make what is missing; leave with the shared lock, which lasts as long as we do.

        Raises:
            CannotError: This machine lacks what is needed; the sentence says what.

        """
        self._take(fcntl.LOCK_SH)
        while not self._whole(environment):
            self._take(fcntl.LOCK_EX)
            self._make(environment)
            self._take(fcntl.LOCK_SH)  # another may have the lock in between: look again

    def entry(self, *, dev: bool = False) -> list[str]:
        """Return the words before a command that is to run in the tree."""
        room = [sys.executable, str(_ROOM), "--tree", str(self.tree), "--checkout", str(ROOT)]
        return [*room, *(["--dev"] if dev else []), "--"]

    def _take(self, kind: int) -> None:
        try:
            fcntl.flock(self._lock, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            say("waiting for another use of this tree")
            fcntl.flock(self._lock, kind)

    def _whole(self, environment: Environment) -> bool:
        return _is_made(self.tree, _tree_recipe()) and _is_made(
            self._inside(environment.place), _recipe(environment)
        )

    def _inside(self, place: str) -> Path:
        return self.tree / place.lstrip("/")

    def _make(self, environment: Environment) -> None:
        if not _is_made(self.tree, _tree_recipe()):
            install_programs()
            _once(self.tree, _tree_recipe(), _TREE_BYTES, self._make_tree)
        place = self._inside(environment.place)

        def make() -> None:
            self._make_environment(environment)

        _once(place, _recipe(environment), environment.size_bytes, make)

    def _make_tree(self) -> None:
        say(f"making a Debian tree for arm64 ({SUITE}); this takes about three minutes")
        command = [PROGRAMS["mmdebstrap"], "--architectures=arm64", "--variant=minbase"]
        command += [f"--include={INCLUDED}", SUITE, str(self.tree)]
        # mmdebstrap runs Debian's package scripts as aarch64: binfmt_misc has to be there
        room = [sys.executable, str(_ROOM), "--", *command]
        self._run("tree", room, "the tree could not be made")
        for point in (CHECKOUT, DEVICE, DEVELOPER):
            self._inside(point).mkdir(parents=True, exist_ok=True)
        for name in ("etc/hosts", "etc/resolv.conf"):
            (self.tree / name).touch()

    def _make_environment(self, environment: Environment) -> None:
        place = environment.place
        say(f"making {place} in the tree from {environment.pins.relative_to(ROOT)}")
        room = [*self.entry()[:-1], "--writable", "--"]
        name = Path(place).name
        venv = [*room, "/usr/bin/python3", "-m", "venv", "--without-pip", place]
        self._run(name, venv, "the tree's Python made no virtual environment")
        packages = self._inside(place) / "lib/python3.11/site-packages"
        command = [*_UV, *_PLATFORM, "--no-deps", "--only-binary", ":all:", "--require-hashes"]
        command += ["--target", str(packages), "-r", str(environment.pins)]
        self._run(name, command, "the aarch64 packages could not be installed")
        self._link_checkout(name, packages)
        agent = self._inside(place) / "bin/fieldfare-agent"
        agent.write_text(f'#!/bin/sh\nexec {place}/bin/python -I -m agent "$@"\n')
        agent.chmod(0o755)
        say("compiling it, once, so that every start is quick")
        if _HOST_PYTHON == _TREE_PYTHON:  # the same byte code, without emulation
            compiling = [sys.executable, "-I", "-m", "compileall", "-q", "-s", str(self.tree)]
            compiling += ["-p", "/", str(packages)]
        else:
            compiling = [*room, f"{place}/bin/python", "-I", "-m", "compileall", "-q", place]
        # some packages bring test files that are no Python; they are never imported
        subprocess.run(compiling, check=False, stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL)

    def _link_checkout(self, name: str, packages: Path) -> None:
        """Install our own package as one path file, which names the checkout's place in a room."""
        with tempfile.TemporaryDirectory() as built:
            build = [sys.executable, "-I", "-m", "hatchling", "build"]
            build += ["-t", "wheel:editable", "-d", built]
            self._run(name, build, "this checkout could not be built")
            wheels = map(str, Path(built).glob("*.whl"))
            command = [*_UV, "--no-deps", "--no-index", "--target", str(packages), *wheels]
            self._run(name, command, "this checkout could not be linked into the tree")
        (packages / "_fieldfare.pth").write_text(CHECKOUT + "\n")

    def _run(self, name: str, command: list[str], refusal: str) -> None:
        log = self.folder / f"{name}.log"
        with log.open("w") as words, _started(command) as running:
            for line in running.stdout or ():
                words.write(line)
                if line.startswith(_STEP):
                    say(line.removeprefix(_STEP).strip())
        if running.returncode == 0:
            return
        said = log.read_text(errors="replace")[-_LAST_WORDS:]
        if running.returncode == CANNOT:
            raise CannotError(said.strip().splitlines()[-1].removeprefix("arm64: "))
        if _NO_NETWORK.search(said):
            raise CannotError(f"{refusal} without a network; all that was said is in {log}")
        print(said, file=sys.stderr)
        raise UnmadeError(f"{refusal}; all that was said is in {log}")


@contextmanager
def _started(command: list[str]) -> Iterator[subprocess.Popen[str]]:
    """Start a command whose words are read, and kill it if they are read no further."""
    running = subprocess.Popen(
        command,
        cwd=ROOT,
        close_fds=False,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    with running:
        try:
            yield running
        except BaseException:
            running.kill()
            raise


def cache_folder() -> Path:
    """Return the folder that ``FIELDFARE_ARM64_DIR`` names, or ``.arm64`` of the checkout."""
    return Path(os.environ.get(VARIABLE) or ROOT / ".arm64").absolute()


def install_programs() -> None:
    """Install what is missing of qemu-user-static, mmdebstrap and arch-test.

    Raises:
        CannotError: It cannot be installed here.

    """
    missing = [name for name, file in PROGRAMS.items() if not Path(file).exists()]
    if not missing:
        return
    if shutil.which("apt-get") is None:
        raise CannotError(f"{', '.join(missing)} must be installed; no apt-get is here to do it")
    say(f"installing {', '.join(missing)} from Debian's packages")
    apt = ["apt-get", "-o", "DPkg::Lock::Timeout=120", "-qq", "-y"]
    install = [*apt, "--no-install-recommends", "install", *missing]
    if _quietly(install) == 0:
        return
    say("reading Debian's package lists")
    _quietly([*apt, "update"])
    if _quietly(install, hidden=False):
        raise CannotError(f"{', '.join(missing)} could not be installed from Debian's packages")


def _quietly(command: list[str], *, hidden: bool = True) -> int:
    quiet = subprocess.DEVNULL
    return subprocess.run(
        command,
        check=False,
        stdin=quiet,
        stdout=quiet,
        stderr=quiet if hidden else None,
        env=os.environ | {"DEBIAN_FRONTEND": "noninteractive"},
    ).returncode


def _is_made(place: Path, recipe: str) -> bool:
    try:
        return (place / ".ready").read_text() == recipe
    except OSError:
        return False


def _once(place: Path, recipe: str, size_bytes: int, make: Callable[[], None]) -> None:
    """Make a part from nothing, unless it is whole."""
    if _is_made(place, recipe):
        return
    (place / ".ready").unlink(missing_ok=True)
    shutil.rmtree(place, ignore_errors=True)
    free = shutil.disk_usage(place.parent if place.parent.exists() else place.parents[1]).free
    if free < size_bytes:
        raise CannotError(
            f"{place} needs {size_bytes // 10**6} MB of disk and {free // 10**6} MB are free; "
            f"make room, or name another folder in {VARIABLE}"
        )
    try:
        make()
        os.sync()  # a power cut must not leave the file that says it is whole, and no more
        (place / ".ready").write_text(recipe)
    except OSError as why:
        raise UnmadeError(f"{place} could not be made: {why}") from why


def _tree_recipe() -> str:
    return f"1 {SUITE} {INCLUDED}\n"


def _recipe(environment: Environment) -> str:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    pins = hashlib.sha256(environment.pins.read_bytes()).hexdigest()
    return f"1 {environment.place} {version} {pins}\n"
