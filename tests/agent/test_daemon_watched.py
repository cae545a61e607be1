"""What a running agent tells of its inputs, its sensors and its machine, over a real broker."""

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from agent.contract.sketch import SignedSketch
from tests.benches import PIPELINE, Bench, placement
from tests.brokers import Mosquitto
from tests.small_manager import SmallManager
from tests.small_models import CHANNELS, classifier

pytestmark = pytest.mark.broker


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


def observing(config: Path, **settings: object) -> None:
    """Add settings to the section ``[observe]`` that the configuration has already."""
    assert "observe" in tomllib.loads(config.read_text())
    lines = "".join(f"{name} = {value}\n" for name, value in settings.items())
    config.write_text(config.read_text().replace("[observe]\n", "[observe]\n" + lines))


def test_a_dead_sensor_is_told_by_its_channel_and_the_others_by_what_they_held(tmp_path, manager):
    ranges = "ranges = { ax = [-1, 1] }\n"
    bench = Bench(tmp_path, manager, PIPELINE + ranges)
    observing(bench.config, stuck_seconds=1, sketch_seconds=0.5)
    samples = np.random.default_rng(3).normal(size=(1000, len(CHANNELS))).astype(np.float32)
    samples[:, 2] = 0.25
    np.savez(bench.folder / "recording.npz", samples=samples, rate_hz=np.float64(50.0))
    built = manager.publish(classifier(0), placement(1))
    with bench.run() as agent:
        bench.install(agent, built)
        bench.until(agent, lambda: len(bench.heard.events("alarm")) >= 2)
        bench.until(agent, lambda: sum(t.health is not None for t in bench.heard.telemetry()) >= 2)
        assert agent.stop() == 0
    told = {event.why.split(" since")[0] for event in bench.heard.events("alarm")}
    assert "channel az of motion is stuck at 0.25" in told
    outside = next(why for why in told if "outside" in why)
    found = re.fullmatch(
        r"channel ax of motion is outside of its declared range in (\d+)% of values", outside
    )
    assert found is not None, outside
    assert 10 < int(found[1]) < 60  # a third of all, but few are seen at the first look
    assert {event.code for event in bench.heard.events("alarm")} == {"sensor"}
    windows = [w for t in bench.heard.telemetry() for w in t.windows if w.looked]
    last = {one.name: one for w in windows for one in w.inputs if one.values.counts}
    middle = SignedSketch.read(last["az"].values).quantile(0.5)
    assert middle == pytest.approx(0.25, rel=0.06)
    assert last["az"].constant > 0
    assert sum(w.samples for w in windows) > 100
    assert windows[-1].outputs[0].name == "still"
    newest = [t.health for t in bench.heard.telemetry() if t.health][-1]
    assert newest.duty == 1
    assert newest.cpu_agent is not None
    assert newest.disk_free_bytes
