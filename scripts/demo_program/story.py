"""The demo, stage by stage: what an operator would do, done by the operator's commands.

    found → enrol → base release → rounds → promote → ask → bad release → count

Every action is a ``fieldfare`` or ``fieldfare-agent`` command; only looking is done
through the manager's API, because it is done four times a second.
"""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from asking import Asked
from asking import ask as ask_over_http
from processes import BIN, Cast, Process, free_ports, wait_until

from fleet.cli.client import ManagerClient, RefusedByManagerError
from fleet.errors import UnreachableError
from fleet.service.views import (
    DeviceView,
    EvaluationView,
    ReleaseView,
    RolloutView,
    RunView,
    StatusView,
)

ROOT = Path(__file__).resolve().parents[2]
MODELS = ROOT / "scripts" / "base_model"
SLOT = "motion"
PARTS = ("broker", "manager", "device")
EVERY = "every"
STAGES = ("base", "rounds", "promote", "bad", EVERY)
ROUNDS = 3
# Wrists of people whom the base model never saw; the stranger takes no part in the rounds.
STRANGER = (8, "left")
PLACES = (
    (5, "left"), (5, "right"), (6, "left"), (7, "left"), (7, "right"), STRANGER,
    (6, "right"), (8, "right"),
)  # fmt: skip
OVER = ("done", "halted", "aborted")
V = TypeVar("V")


@dataclass(frozen=True, slots=True)
class Kill:
    """Which part dies, as if by a power cut, in the middle of which stage, or of every one."""

    part: str
    stage: str


@dataclass(slots=True)
class Place:
    """One device of the demo: a person's wrist, and the identity that it made.

    Attributes:
        agent: The command that is its agent.
        update: Further lines of the [update] of its agent.toml.

    """

    name: str
    folder: Path
    trains: bool
    asked: bool = False
    device: str = ""
    agent: tuple[str, ...] = (str(BIN / "fieldfare-agent"),)
    update: str = ""

    @property
    def state(self) -> Path:
        """Its state directory."""
        return self.folder / "state"


@dataclass(slots=True, kw_only=True)
class Story:
    """The demo's places and processes, and what was seen."""

    folder: Path
    count: int
    embedded: bool
    kill: Kill | None
    say: Callable[[str], None]
    rounds: int = ROUNDS
    cast: Cast = field(default_factory=Cast)
    places: list[Place] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    rollouts: dict[str, RolloutView] = field(default_factory=dict)
    run: RunView | None = None
    asked: Asked | None = None

    @property
    def home(self) -> Path:
        """The manager's home."""
        return self.folder / "manager"

    def ask(self, path: str, kind: type[V]) -> V | None:
        """Look at something; None while the manager does not answer."""
        try:
            with ManagerClient(self.home / "fieldfare.sock") as client:
                return client.get(path, kind)
        except (UnreachableError, RefusedByManagerError):
            return None

    def operate(self, *arguments: str) -> dict[str, object]:
        """Run a ``fieldfare`` command and return what it printed as JSON."""
        command = [str(BIN / "fieldfare"), *arguments, "--home", str(self.home), "-o", "json"]
        return json.loads(_run(command))

    def wait(self, holds: Callable[[], bool], what: str, *, seconds: float = 90.0) -> None:
        """Wait until something holds."""
        wait_until(holds, what, seconds=seconds, cast=self.cast)

    def device_views(self) -> dict[str, DeviceView]:
        """Return the manager's view of each device."""
        return {v.id: v for v in self.ask("/devices", list[DeviceView]) or ()}


def play(story: Story) -> None:
    """Play every stage."""
    for name, act in (
        ("found", found),
        ("enrol", enrol),
        ("base", base),
        ("rounds", rounds),
        ("promote", promote),
        ("ask", ask),
        ("bad", bad),
    ):
        with stage(story, name):
            act(story)


@contextmanager
def stage(story: Story, name: str) -> Iterator[None]:
    """Time one stage."""
    began = time.monotonic()
    yield
    story.seconds[name] = round(time.monotonic() - began, 1)


def found(story: Story) -> None:
    """Make a fleet, start its broker and its manager."""
    story.say("making a development fleet: keys, signed metadata, broker configuration")
    ports = free_ports(2)
    kind = "embedded" if story.embedded else "mosquitto"
    _run(
        [
            str(BIN / "fieldfare"), "init", "--dev", "--fleet", "demo", "--broker", kind,
            "--port", str(ports[0]), "--enrol-port", str(ports[1]), "--home", str(story.home),
        ]
    )  # fmt: skip
    for name, words in (("broker", ["broker", "run"]), ("manager", ["serve"])):
        command = [str(BIN / "fieldfare"), *words, "--home", str(story.home)]
        story.cast.start(Process(name, command, story.folder / f"{name}.log"))
    story.say(f"starting {kind} and the manager")

    def up() -> bool:
        view = story.ask("/status", StatusView)
        return view is not None and view.broker_connected

    story.wait(up, "the manager to reach the broker", seconds=30)


def enrol(story: Story) -> None:
    """Give each device a token; each makes its own key and enrols; then it starts."""
    for person, side in (PLACES[i % len(PLACES)] for i in range(story.count)):
        twin = sum(p.name.startswith(f"person-{person}-{side}") for p in story.places)
        name = f"person-{person}-{side}" + (f"-{twin + 1}" if twin else "")
        story.say(f"enrolling {name} ({len(story.places) + 1} of {story.count})")
        trains, first = (person, side) != STRANGER, not story.places
        place = Place(name, story.folder / name, trains=trains, asked=first)
        enrol_one(story, place, person, side)
    story.wait(
        lambda: sum(v.presence == "online" for v in story.device_views().values()) == story.count,
        "every device to be online",
    )


def enrol_one(story: Story, place: Place, person: int, side: str) -> None:
    """Give one device its recording and a token; it enrols and starts."""
    story.places.append(place)
    _run([sys.executable, str(MODELS / "devices"), str(person), side, str(place.folder)])
    file = place.folder / "enrolment.json"
    story.operate("token", "create", "--group", "demo", "--file", str(file))
    state = str(place.state)
    _run([*place.agent, "enrol", str(file), "--state-dir", state])
    file.unlink()
    told = json.loads(_run([*place.agent, "status", "--state-dir", state, "-o", "json"]))
    place.device = told["device"]
    (place.folder / "agent.toml").write_text(_agent_toml(place))
    command = [*place.agent, "run", "--config", str(place.folder / "agent.toml")]
    story.cast.start(Process(place.name, command, place.folder / "agent.log"))


_ASKED = """\
[serve]
socket = "ask.sock"
[feedback]
"""


def _agent_toml(place: Place) -> str:
    return f"""\
[agent]
state_dir = "state"
[link]
reconnect_first_seconds = 0.2
reconnect_longest_seconds = 2.0
resend_seconds = 4.0
answer_seconds = 3.0
resettle_seconds = 3.0
state_jitter_seconds = 0.5
[observe]
window_seconds = 2.0
[pipeline.{SLOT}]
source = {{ kind = "replay", path = "recording.npz", speed = 20.0, loop = true }}
[update]
probation_seconds = 60.0
look_seconds = 0.5
reserve_bytes = 1000000
{place.update}
[learn]
samples = "labelled.npz"
train = {"true" if place.trains else "false"}
evaluate = true
{_ASKED if place.asked else ""}"""


def base(story: Story) -> None:
    """Sign the base model and roll it out to every device."""
    story.say("admitting, signing and publishing the base model (int8 ONNX)")
    published = story.operate("model", "publish", str(MODELS / "motion-int8.onnx"))
    name = f"{SLOT}/{published[0]['version']}"
    view = roll_out(story, "base", name, [])
    if view.status != "done":
        raise TimeoutError(f"the rollout of the base model ended as {view.status}: {view.why}")
    story.wait(lambda: _measured(story, published[0]["digest"]), "accuracy of the base release")


def rounds(story: Story) -> None:
    """Train the head in federated rounds; every device judges the candidate."""
    started = story.operate("run", "start", SLOT, "--rounds", str(story.rounds))
    run = str(started["id"])
    _interrupt(story, "rounds")

    def over() -> bool:
        view = story.ask(f"/runs/{run}", RunView)
        if view is None:
            return False
        story.run = view
        story.say(
            f"federated rounds: {view.rounds_completed} of {view.rounds} done, "
            f"{view.replies} replies from {len(view.participants)} devices, {view.status}"
        )
        return view.status in {"finished", "failed", "stopped"}

    story.wait(over, "the federated run", seconds=240)
    if story.run is None or story.run.status != "finished":
        raise TimeoutError(f"the run did not finish: {story.run.why if story.run else 'unknown'}")


_GIVE_KEY = ("keys", "rounds", "create", SLOT, "--yes")


def promote(story: Story) -> None:
    """Sign the candidate and bring it to the devices in whose decide windows it is better.

    The manager signs it with a key that the offline keys gave it for nothing else.
    """
    story.say("signing the candidate; it goes where the devices' own decide windows are better")
    _run([str(BIN / "fieldfare"), *_GIVE_KEY, "--home", str(story.home)])
    made = story.operate("run", "promote", story.run.id, "--rounds-key", "--soak", "1")
    _interrupt(story, "promote")
    _follow(story, "promote", made["rollout"]["id"])
    story.wait(
        lambda: _measured(story, made["release"]["digest"], made["receivers"]),
        "accuracy of the promoted release",
    )


def ask(story: Story) -> None:
    """Let a program beside the first device ask its model, and say what was right."""
    place = story.places[0]
    story.say(f"asking {place.name} over HTTP on its own socket, and labelling its answers")
    classes = tuple(json.loads((MODELS / "motion-int8.json").read_text())["classes"])
    asking = place.folder / "ask.sock", place.folder / "labelled.npz"
    story.asked = ask_over_http(*asking, SLOT, classes)

    def labelled() -> bool:
        view = story.ask(f"/devices/{place.device}", DeviceView)
        found = view.in_the_field if view else ()
        return sum(told.quality.windows for told in found) >= story.asked.labelled

    story.wait(labelled, "the labels to be counted by the manager")


def bad(story: Story) -> None:
    """Publish a validly signed release that behaves badly; the canary must stop it."""
    story.say("publishing a bad release: degraded weights, validly signed, its golden vectors hold")
    model = story.folder / "bad.onnx"
    good = str(MODELS / "motion-int8.onnx")
    _run([sys.executable, str(MODELS / "bad_release"), good, str(model)])
    description = story.folder / "bad.json"
    told = json.loads((MODELS / "motion-int8.json").read_text())
    told["golden_inputs"] = str(MODELS / told["golden_inputs"])
    description.write_text(json.dumps(told))
    published = story.operate("model", "publish", str(model), "--description", str(description))
    roll_out(story, "bad", f"{SLOT}/{published[0]['version']}", ["--canary", "1"])
    story.wait(lambda: _settled(story), "every device to run what it is wanted to run")


def roll_out(story: Story, name: str, release: str, options: list[str]) -> RolloutView:
    """Create a rollout and follow it to its end."""
    created = story.operate("rollout", "create", release, "--soak", "1", *options)
    _interrupt(story, name)
    return _follow(story, name, str(created["id"]))


def _follow(story: Story, name: str, rollout: str) -> RolloutView:
    def over() -> bool:
        view = story.ask(f"/rollouts/{rollout}", RolloutView)
        if view is None:
            return False
        story.rollouts[name] = view
        ready = sum(d.state == "succeeded" for d in view.devices)
        story.say(
            f"{view.release}: wave {view.wave} of {view.waves}, {view.status}; "
            f"{ready} of {len(view.devices)} devices proved it"
        )
        return view.status in OVER

    story.wait(over, f"rollout {rollout}", seconds=180)
    return story.rollouts[name]


def _measured(story: Story, digest: str, devices: list[str] | None = None) -> bool:
    wanted = devices if devices is not None else [p.device for p in story.places]
    release = next(
        (r for r in story.ask("/releases", list[ReleaseView]) or () if r.digest == digest), None
    )
    found = story.ask("/evaluations", list[EvaluationView]) or []
    told = {e.device for e in found if release and e.release == release.name and e.withheld}
    return set(wanted) <= told


def _settled(story: Story) -> bool:
    views = story.device_views()
    return len(views) == story.count and all(
        slot.runs_digest == slot.wanted_digest and slot.phase == "idle"
        for view in views.values()
        for slot in view.slots
    )


def _interrupt(story: Story, stage_name: str) -> None:
    """Kill a part in the middle of a stage, as a power cut would, and start it again."""
    if story.kill is None or story.kill.stage not in {stage_name, EVERY}:
        return
    victims = {"broker": "broker", "manager": "manager", "device": story.places[0].name}
    process = story.cast.processes[victims[story.kill.part]]
    story.say(f"kill -9 {process.name} in the middle of stage {stage_name}")
    time.sleep(1.0)  # let the stage get under way; nothing is waited for here
    process.kill()
    process.start()


def _run(command: list[str]) -> bytes:
    done = subprocess.run(command, capture_output=True, check=False, stdin=subprocess.DEVNULL)
    if done.returncode:
        words = done.stderr.decode(errors="replace").strip()
        raise TimeoutError(f"{Path(command[0]).name} {' '.join(command[1:3])} failed: {words}")
    return done.stdout
