"""The agent as a process, against a real mosquitto and a manager of the fleet's own parts."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from agent.contract.manifest import Windowing
from fleet.release.build import BuiltRelease, Placement
from tests.agents import RunningAgent, command, read_status, write_config, write_recording
from tests.brokers import Mosquitto, eventually
from tests.small_manager import Heard, SmallManager
from tests.small_models import CHANNELS, CLASSES, SAMPLES, classifier

pytestmark = pytest.mark.broker

PIPELINE = """
[pipeline.motion]
source = { kind = "replay", path = "recording.npz", speed = 20, loop = true }
"""
LABELLED = '[learn]\nsamples = "labelled.npz"\n'


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    running = Mosquitto(tmp_path / "broker").start()
    yield running
    running.stop()


@pytest.fixture
def manager(tmp_path: Path, broker: Mosquitto) -> Iterator[SmallManager]:
    with SmallManager(tmp_path / "home", broker) as running:
        yield running
    assert running.problems == []


class Bench:
    """One enrolled device with a recording, ready to run."""

    def __init__(self, folder: Path, manager: SmallManager, extra: str = PIPELINE) -> None:
        self.folder = folder / "device"
        self.folder.mkdir()
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
    from agent.infer.onnx import OnnxRuntime

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


def test_an_assigned_release_is_fetched_proven_served_and_reported(tmp_path, manager):
    bench = Bench(tmp_path, manager, PIPELINE + "publish_predictions = true\n" + LABELLED)
    built = manager.publish(classifier(0), placement(1))
    with bench.run() as agent:
        bench.install(agent, built)
        bench.until(agent, lambda: bench.heard.outcome_of(built.digest) == ["succeeded"])
        bench.until(agent, lambda: len(bench.heard.telemetry()) >= 3)
        bench.until(agent, lambda: len(bench.heard.events("evaluation")) == 1)
        bench.until(agent, lambda: len(bench.heard.predictions) > 20)
        bench.until(agent, lambda: read_status(bench.folder).outbox.acknowledged >= 5)
        assert agent.stop() == 0
    heard = bench.heard
    windows = [w for t in heard.telemetry() for w in t.windows]
    assert {w.release for w in windows} == {built.digest}
    assert sum(w.inferences for w in windows) > 50
    assert [w.number for w in windows] == list(range(len(windows)))
    assert {p.label for p in heard.predictions} <= set(CLASSES)
    evaluation = heard.events("evaluation")[0]
    assert evaluation.withheld is not None
    assert evaluation.withheld.accuracy == pytest.approx(1.0)
    assert evaluation.withheld.windows == 40
    assert heard.inventory[-1].labelled_windows == 120
    assert heard.inventory[-1].slots == ("motion",)
    assert [runtime.name for runtime in heard.inventory[-1].runtimes] == ["onnx"]
    assert heard.presence[0].s == "online"
    assert heard.presence[-1].s == "offline"
    assert heard.presence[-1].why == "SIGTERM"
    assert heard.repeated == 0
    assert not heard.events("alarm")
    status = read_status(bench.folder)
    assert status.outbox.pending == status.outbox.dropped == 0
    assert status.outbox.appended == len(heard.reports)
    assert status.accepted is not None
    assert status.accepted.sequence == 1
    assert status.slots["motion"].current == built.digest


def test_a_release_that_behaves_worse_is_rolled_back_and_never_tried_again(tmp_path, manager):
    bench = Bench(tmp_path, manager, PIPELINE + LABELLED)
    good = manager.publish(classifier(0), placement(1))
    bad = manager.publish(classifier(99), placement(2))
    with bench.run() as agent:
        bench.install(agent, good)
        manager.assign(bench.device, bad)
        bench.until(agent, lambda: bench.heard.outcome_of(bad.digest) == ["failed_rolled_back"])
        bench.until(agent, lambda: bad.digest in bench.heard.reported[-1].slots["motion"].denied)
        assert bench.current() == good.digest
        why = next(e for e in bench.heard.events("update") if e.release == bad.digest).why
        assert "decide" in why or "agree" in why
        agent.stop()
    assert read_status(bench.folder).slots["motion"].current == good.digest


def test_what_ran_before_a_power_cut_runs_again_and_reports_are_neither_lost_nor_renumbered(
    tmp_path, manager
):
    bench = Bench(tmp_path, manager)
    built = manager.publish(classifier(0), placement(1))
    manager.acknowledges = False
    with bench.run() as agent:
        bench.install(agent, built)
        bench.until(agent, lambda: len(bench.heard.telemetry()) >= 2)
        agent.kill()
    before = dict(bench.heard.reports)
    manager.acknowledges = True
    with bench.run() as agent:
        bench.until(agent, lambda: len(bench.heard.telemetry()) >= 6)
        bench.until(agent, lambda: len({boot for boot, _ in bench.heard.reports}) == 2)
        bench.until(agent, lambda: read_status(bench.folder).outbox.acknowledged > len(before))
        agent.stop()
    assert {key: bench.heard.reports[key] for key in before} == before
    assert bench.heard.outcome_of(built.digest) == ["succeeded"]
    status = read_status(bench.folder)
    assert status.boots == 2
    assert status.outbox.appended == len(bench.heard.reports)


def test_an_outage_of_the_broker_loses_no_report(tmp_path, broker, manager):
    bench = Bench(tmp_path, manager)
    built = manager.publish(classifier(0), placement(1))
    with bench.run() as agent:
        bench.install(agent, built)
        broker.kill()
        made = read_status(bench.folder).outbox.appended
        bench.until(agent, lambda: read_status(bench.folder).outbox.appended >= made + 3)
        broker.start()
        bench.until(agent, lambda: read_status(bench.folder).outbox.acknowledged >= made + 3)
        agent.stop()
    status = read_status(bench.folder)
    assert status.outbox.dropped == 0
    assert status.outbox.appended == len(bench.heard.reports)


def test_a_manager_that_starts_again_gets_all_state_anew(tmp_path, manager):
    bench = Bench(tmp_path, manager)
    with bench.run() as agent:
        bench.until(agent, lambda: len(bench.heard.inventory) == 1)
        manager.stop()
        manager.heard.clear()
        manager.start()
        bench.until(agent, lambda: len(bench.heard.inventory) >= 2)
        agent.stop()


def test_a_second_agent_on_the_same_state_is_refused(tmp_path, manager):
    bench = Bench(tmp_path, manager)
    with bench.run() as agent:
        bench.until(agent, lambda: bool(bench.heard.presence))
        ended = command("run", "--config", bench.config)
        assert ended.returncode == 10
        assert "another agent works on" in ended.stderr
        assert read_status(bench.folder).running
        assert agent.stop() == 0


def test_an_assignment_to_a_slot_without_a_pipeline_is_an_alarm(tmp_path, manager):
    bench = Bench(tmp_path, manager)
    built = manager.publish(classifier(0), placement(1))
    with bench.run() as agent:
        manager.assign(bench.device, built, slot="sound")
        bench.until(agent, lambda: any(e.code == "slot" for e in bench.heard.events("alarm")))
        agent.stop()


def test_a_release_that_the_offline_keys_did_not_sign_is_not_run(tmp_path, manager):
    bench = Bench(tmp_path, manager)
    signed = manager.publish(classifier(0), placement(1))
    with bench.run() as agent:
        bench.install(agent, signed)
        # a stolen manager: it serves and assigns a release that is not among the targets
        from fleet.release.build import build_release

        stray = build_release(classifier(5), placement(2), golden_inputs=None, metrics={}, now_ms=1)
        for content in stray.artifacts.values():
            manager.artifacts.put(content)
        manager.assign(bench.device, stray)
        bench.until(agent, lambda: bool(bench.heard.outcome_of(stray.digest)))
        assert bench.heard.outcome_of(stray.digest)[0] in {"rejected", "failed_no_change"}
        assert bench.current() == signed.digest
        agent.stop()


def test_the_release_before_comes_back_when_the_running_one_permits_it(tmp_path, manager):
    bench = Bench(tmp_path, manager)
    old = manager.publish(classifier(0), placement(1))
    new = manager.publish(classifier(0, scale=1.01), placement(2, rollback_to=(old.digest,)))
    with bench.run() as agent:
        bench.install(agent, old)
        bench.install(agent, new)
        bench.install(agent, old)
        agent.stop()
    assert read_status(bench.folder).slots["motion"].current == old.digest
