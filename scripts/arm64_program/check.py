"""An aarch64 agent in a fleet on this machine, and its answers beside this machine's own.

Manager and mosquitto run here; one agent runs as aarch64 under qemu, and a twin of it, with
the same recording, natively. Every line that is printed was seen from outside: in the
manager's registry, or in two files of answers.

Rule 1: a line holds or is FAILED; what could not be tried after a failure is said too.
Rule 2: nothing is left behind but, after a failure, the folder with all logs.
"""

import json
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from room import CannotError

_HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(_HERE.with_name("demo_program")))

import numpy as np  # noqa: E402
from story import (  # noqa: E402
    MODELS,
    SLOT,
    Place,
    Story,
    ask,
    base,
    enrol_one,
    found,
    roll_out,
    rounds,
)

from fleet.service.views import EvaluationView, UpdateView  # noqa: E402

USAGE = "usage: scripts/arm64 check [--quick]    --quick: answers and enrolment only"
TOLERANCE = 1e-4
"""Four digits: at most so far may an answer be from this machine's."""
LIBRARIES = ("onnxruntime", "ai-edge-litert", "tflite-runtime")
WRIST = (6, "left")
_FAILURES = (TimeoutError, LookupError, subprocess.CalledProcessError, OSError)


@dataclass(slots=True)
class Page:
    """The lines of the check, as they come to hold."""

    began: float = field(default_factory=time.monotonic)
    failed: bool = False

    def line(self, what: str, look: Callable[[], str], *, after: bool = True) -> bool:
        """Look at one thing, ``after`` what it builds on held, and return whether it holds."""
        if not after:
            self._print("not tried", what, "")
            return False
        try:
            told = look()
        except _FAILURES as why:
            self.failed = True
            self._print("FAILED", what, _words(why))
            return False
        self._print("ok", what, told)
        return True

    def _print(self, verdict: str, what: str, told: str) -> None:
        seconds = time.monotonic() - self.began
        print(f"  {verdict:<9}  {seconds:4.0f} s  {what:<34} {told}".rstrip(), flush=True)


def check(options: list[str], enter: Callable[[], list[str]]) -> int:
    """Look at everything, and return 0 only if all of it holds.

    Args:
        options: Of the command line.
        enter: Makes the tree where it is missing, and returns the words before a command in it.

    """
    if options not in ([], ["--quick"]):
        print(USAGE, file=sys.stderr)
        return 2
    if shutil.which("mosquitto") is None:
        raise CannotError("the check needs the mosquitto broker: install the package mosquitto")
    room = tuple(enter())
    folder = Path(tempfile.mkdtemp(prefix="fieldfare-arm64-"))
    story = Story(folder=folder, count=2, embedded=False, kill=None, say=_silent, rounds=1)
    page = Page()
    keep = True
    try:
        _look(page, story, room, quick=bool(options))
        keep = page.failed
    except (KeyboardInterrupt, SystemExit):
        keep = False
        raise
    finally:
        for ignored in (signal.SIGINT, signal.SIGTERM):
            signal.signal(ignored, signal.SIG_IGN)
        story.cast.stop()
        if keep:
            print(f"scripts/arm64 check: logs and state are in {folder}", file=sys.stderr)
        else:
            shutil.rmtree(folder, ignore_errors=True)
    seconds = time.monotonic() - page.began
    verdict = "something does not hold" if page.failed else "everything holds"
    print(f"scripts/arm64 check: {verdict}, {seconds:.0f} s")
    return 1 if page.failed else 0


def _look(page: Page, story: Story, room: tuple[str, ...], *, quick: bool) -> None:
    answers = _Answers(story.folder, room)
    runs = page.line("runs as aarch64", lambda: _what_it_is(room))
    infers = page.line("every runtime infers", answers.gather, after=runs)
    for name, outputs in (("int8", "int8"), ("float", "fp32"), ("TFLite", "motion.tflite")):
        page.line(f"{name} answers as here", lambda o=outputs: answers.compare(o), after=infers)
    joined = page.line("enrols", lambda: _enrol(story, room), after=runs)
    page.line("reports its libraries", lambda: _inventory(story), after=joined)
    if quick:
        return
    onnx = page.line("takes a signed update over MQTT", lambda: _update(story), after=joined)
    page.line("measures ONNX as its twin", lambda: _alike(story, "base"), after=onnx)
    page.line("trains in a federated round", lambda: _round(story), after=onnx)
    tflite = page.line("takes a TFLite release", lambda: _update_tflite(story), after=onnx)
    page.line("measures TFLite as its twin", lambda: _alike(story, "tflite"), after=tflite)
    page.line("answers over HTTP", lambda: _asked(story), after=onnx)


def _what_it_is(room: tuple[str, ...]) -> str:
    program = (
        "import os, platform as p; r = p.freedesktop_os_release();"
        "print(p.machine(), r['PRETTY_NAME'], 'Python', p.python_version(), sep='|')"
    )
    done = subprocess.run(
        [*room, "python", "-c", program], capture_output=True, text=True, check=True
    )
    machine, *rest = done.stdout.strip().split("|")
    if machine != "aarch64":
        raise LookupError(f"the tree's Python calls its machine {machine}")
    return ", ".join([rest[0], " ".join(rest[1:])])


class _Answers:
    """Answers of all runtimes to the golden inputs, of this machine and of the tree."""

    def __init__(self, folder: Path, room: tuple[str, ...]) -> None:
        self._folder, self._room = folder, room
        self._here: dict[str, np.ndarray] = {}
        self._there: dict[str, np.ndarray] = {}

    def gather(self) -> str:
        """Ask on both machines."""
        program = _HERE / "answers.py"
        self._here = self._read("here", [sys.executable, str(program)])
        inside = f"scripts/{_HERE.name}/{program.name}"
        self._there = self._read("there", [*self._room, "python", inside])
        told = {n: str(v) for n, v in self._there.items() if n.startswith("told/")}
        if told["told/machine"] != "aarch64":
            raise LookupError(f"the answers come from a machine called {told['told/machine']}")
        return ", ".join(f"{name} {told[f'told/{name}']}" for name in (*LIBRARIES, "numpy"))

    def compare(self, model: str) -> str:
        """Compare the answers of every runtime for one kind of model."""
        names = [n for n in self._here if model in n and not n.startswith("told/")]
        if not names:
            raise LookupError(f"no runtime has answered for a model called {model}")
        worst = {n: _difference(self._here[n], self._there[n]) for n in names}
        most = max(worst, key=lambda name: worst[name])
        sentence = f"largest difference {worst[most]:.2g} in {most}; at most {TOLERANCE:g} may be"
        if not worst[most] <= TOLERANCE:
            raise LookupError(sentence)
        return f"{len(self._here[most])} golden windows, {sentence}"

    def _read(self, name: str, command: list[str]) -> dict[str, np.ndarray]:
        file = self._folder / f"{name}.npz"
        subprocess.run([*command, str(file)], capture_output=True, check=True)
        with np.load(file) as answers:
            return dict(answers)


def _difference(here: np.ndarray, there: np.ndarray) -> float:
    if here.shape != there.shape:
        return float("inf")
    return float(np.nan_to_num(np.abs(here - there), nan=np.inf).max())


def _enrol(story: Story, room: tuple[str, ...]) -> str:
    found(story)
    for name, agent in (("aarch64", (*room, "fieldfare-agent")), ("twin", None)):
        place = Place(name, story.folder / name, trains=True, asked=not story.places)
        place.agent = agent or place.agent
        place.update = "max_latency_ratio = 1000.0"  # speed means nothing under emulation
        enrol_one(story, place, *WRIST)
    story.wait(
        lambda: sum(v.presence == "online" for v in story.device_views().values()) == story.count,
        "both devices to be online",
    )
    return f"{story.places[0].device}, over mosquitto with TLS"


def _inventory(story: Story) -> str:
    device = story.places[0].device

    def told() -> bool:
        return bool(story.device_views()[device].runtimes)

    story.wait(told, "the device to report its runtimes")
    view = story.device_views()[device]
    libraries = sorted(runtime.library for runtime in view.runtimes)
    if view.arch != "aarch64" or libraries != sorted(LIBRARIES):
        raise LookupError(f"the fleet sees {view.arch} with {', '.join(libraries) or 'nothing'}")
    flags = ", ".join(view.cpu_flags) or "no flags"
    return f"the fleet sees {view.arch} ({flags}) with {', '.join(libraries)}"


def _update(story: Story) -> str:
    base(story)
    return _told_of_update(story, story.rollouts["base"].release)


def _update_tflite(story: Story) -> str:
    described = ["--description", str(MODELS / "motion-int8.json")]
    published = story.operate("model", "publish", str(MODELS / "motion.tflite"), *described)
    release = f"{SLOT}/{published[0]['version']}"
    view = roll_out(story, "tflite", release, [])
    if view.status != "done":
        raise TimeoutError(f"the rollout of {release} ended as {view.status}: {view.why}")
    return _told_of_update(story, view.release)


def _told_of_update(story: Story, release: str) -> str:
    """Return what the aarch64 device found out about a release before it kept it."""
    device = story.places[0].device
    updates = story.ask("/updates", list[UpdateView]) or []
    mine = [u for u in updates if u.device == device and u.release == release]
    if not mine or mine[-1].outcome != "succeeded":
        raise LookupError(f"the update to {release} ended as {mine[-1] if mine else 'nothing'}")
    golden = next(f for f in mine[-1].findings if f.check == "golden-vectors")
    return f"{release}; golden vectors: {golden.why}"


def _alike(story: Story, rollout: str) -> str:
    """Compare what both devices measured on the same labelled windows."""
    release = story.rollouts[rollout].release
    told: dict[str, EvaluationView] = {}

    def measured() -> bool:
        views = story.ask("/evaluations", list[EvaluationView]) or []
        told.update({v.device: v for v in views if v.release == release and v.withheld})
        return len(told) == story.count

    story.wait(measured, f"both devices to measure {release}")
    mine, twin = (told[place.device].withheld for place in story.places)
    if (
        mine is None
        or twin is None
        or (mine.accuracy, mine.windows)
        != (
            twin.accuracy,
            twin.windows,
        )
    ):
        raise LookupError(f"aarch64 measured {mine} where this machine measured {twin}")
    return f"accuracy {mine.accuracy:.3f} on {mine.windows} withheld windows, as on its twin"


def _round(story: Story) -> str:
    rounds(story)
    run = story.run
    if run is None or story.places[0].device not in run.participants:
        raise LookupError("the run ended without the aarch64 device")
    if run.refused or run.replies < story.count:
        raise LookupError(f"{run.replies} replies came and {run.refused} were refused")
    return f"{run.rounds_completed} round, {run.replies} trained heads, {run.refused} refused"


def _asked(story: Story) -> str:
    ask(story)
    asked = story.asked
    if asked is None or asked.labelled < asked.windows:
        raise LookupError(f"what was asked and labelled is {asked}")
    return f"{asked.right} of {asked.windows} windows right; {asked.labelled} labels reached it"


def _silent(_words: str) -> None:
    """The page says enough."""


def _words(why: BaseException) -> str:
    if isinstance(why, subprocess.CalledProcessError):
        said = why.stderr.decode(errors="replace") if isinstance(why.stderr, bytes) else why.stderr
        return f"{json.dumps(why.cmd[-2:])} ended with {why.returncode}: {said.strip()[-600:]}"
    return str(why)
