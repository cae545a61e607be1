"""One enrolled device beside a small manager, as a process, for tests of the whole agent."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from agent.contract.manifest import Windowing
from agent.infer.onnx import OnnxRuntime
from fleet.release.build import BuiltRelease, Placement
from tests.agents import RunningAgent, command, write_config, write_recording
from tests.brokers import eventually
from tests.small_manager import Heard, SmallManager
from tests.small_models import CHANNELS, CLASSES, SAMPLES, classifier

PIPELINE = """
[pipeline.motion]
source = { kind = "replay", path = "recording.npz", speed = 20, loop = true }
"""
LABELLED = '[learn]\nsamples = "labelled.npz"\n'


class Bench:
    """One enrolled device with a recording, ready to run."""

    def __init__(self, folder: Path, manager: SmallManager, extra: str = PIPELINE) -> None:
        self.folder = folder / "device"
        self.folder.mkdir(exist_ok=True)
        self.manager = manager
        self.config = write_config(self.folder, extra)
        write_recording(self.folder / "recording.npz")
        write_labelled(self.folder / "labelled.npz", classifier(0))
        (self.folder / "enrol.json").write_bytes(manager.token())
        ended = command("enrol", self.folder / "enrol.json", "--state-dir", self.folder / "state")
        assert ended.returncode == 0, ended.stderr
        self.device = next(iter(manager.devices))

    @property
    def heard(self) -> Heard:
        return self.manager.heard_of(self.device)

    def run(self) -> RunningAgent:
        return RunningAgent(self.folder)

    def until(self, agent: RunningAgent, holds: Callable[[], bool], seconds: float = 40.0) -> None:
        try:
            eventually(holds, seconds)
        except AssertionError:
            problems = "\n".join(self.manager.problems)
            raise AssertionError(f"{problems}\n{agent.said()[-6000:]}") from None
        assert agent.child.poll() is None, agent.said()

    def current(self) -> str | None:
        reported = self.heard.reported
        slot = reported[-1].slots.get("motion") if reported else None
        return slot.current if slot else None

    def install(self, agent: RunningAgent, built: BuiltRelease) -> None:
        self.manager.assign(self.device, built)
        self.until(agent, lambda: self.current() == built.digest)


def write_labelled(path: Path, model: bytes) -> None:
    """Windows labelled with what ``model`` answers: it is always right, others are not."""
    rng = np.random.default_rng(5)
    x = rng.normal(size=(120, len(CHANNELS), SAMPLES)).astype(np.float32)
    runtime = OnnxRuntime(model)
    y = [int(runtime.infer(window[np.newaxis])[0].argmax()) for window in x]
    split = (np.arange(len(x)) % 3).astype(np.uint8)
    np.savez(path, x=x, y=np.array(y, np.int64), split=split)


def placement(counter: int, rollback_to: tuple[str, ...] = ()) -> Placement:
    return Placement(
        family="motion",
        version=f"v{counter}",
        slot="motion",
        counter=counter,
        windowing=Windowing(channels=CHANNELS, samples=SAMPLES, hop=4, rate_hz=50.0),
        classes=CLASSES,
        probabilities="probabilities",
        rollback_to=rollback_to,
    )
