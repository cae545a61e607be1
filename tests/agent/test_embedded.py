"""The agent inside of another program: asked in process, updated as ever."""

import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from agent.contract.manifest import State
from agent.embedded import Agent
from agent.errors import (
    BusyError,
    ConfigError,
    EnrolmentError,
    InputRefusedError,
    NotServingError,
    StoppedError,
)
from agent.infer.requests import Stream
from fleet.release.build import Placement
from tests.agents import write_config
from tests.benches import Bench, placement
from tests.brokers import eventually
from tests.small_models import CLASSES, SAMPLES, classifier, recurrent

GUIDE = Path(__file__).parents[2] / "docs" / "python.md"
ASKED = "[pipeline.motion]\n"


def window(seed=0):
    return np.random.default_rng(seed).normal(size=(1, 3, SAMPLES)).astype(np.float32)


@pytest.mark.broker
def test_a_program_is_the_agent_asks_its_model_and_is_updated(tmp_path, manager):
    bench = Bench(tmp_path, manager, ASKED + "[feedback]\n")
    built = manager.publish(classifier(0), placement(1))
    handler = signal.getsignal(signal.SIGTERM)
    with Agent(bench.config) as agent:
        assert [(m.slot, m.ready) for m in agent.models()] == [("motion", False)]
        with pytest.raises(NotServingError, match="no model after 0 s"):
            agent.wait("motion", seconds=0)
        manager.assign(bench.device, built)
        assert agent.wait("motion", seconds=40).digest == built.digest
        with pytest.raises(BusyError):
            Agent(bench.config).start()
        said = [agent.infer("motion", window(seed)) for seed in range(12)]
        eventually(lambda: bench.heard.outcome_of(built.digest) == ["succeeded"], 40)
        assert {s.release for s in said} == {built.digest}
        with pytest.raises(InputRefusedError, match="is float64; wanted float32"):
            agent.infer("motion", {"x": window().astype(np.float64)})
        assert agent.infer("motion", {"x": window().tolist()}).label in CLASSES
        wrong = next(label for label in CLASSES if label != said[0].label)
        assert not agent.feedback("motion", said[0].id, wrong).right
        assert signal.getsignal(signal.SIGTERM) is handler
    with pytest.raises(StoppedError, match="not running"):
        agent.infer("motion", window())
    with agent:  # it may be started again, and what ran runs again
        agent.wait("motion", seconds=40)
        assert agent.infer("motion", window()).release == built.digest


@pytest.mark.broker
def test_a_recurrent_release_comes_over_the_air_and_keeps_a_state_for_each_stream(
    tmp_path, manager
):
    bench = Bench(tmp_path, manager, "[pipeline.sums]\n")
    states = (State(input="h_in", output="h_out"),)
    built = manager.publish(
        recurrent(), Placement(family="sums", version="v1", slot="sums", counter=1, states=states)
    )
    with Agent(bench.config) as agent:
        manager.assign(bench.device, built, slot="sums")
        assert agent.wait("sums", seconds=40).stateful
        left, right = Stream(id="left"), Stream(id="right")

        def total(stream):
            return agent.infer("sums", [[1, 10]], stream=stream).outputs["sum"].tolist()[0]

        assert [total(left), total(left), total(right)] == [[1, 10], [2, 20], [1, 10]]
        assert total(Stream(id="left", starts=True)) == [1, 10]
        assert [total(Stream(id="left", ends=True)), total(left)] == [[2, 20], [1, 10]]
        assert [total(None), total(None)] == [[1, 10], [1, 10]]


@pytest.mark.broker
def test_the_example_of_the_guide_runs_as_it_stands(tmp_path, manager):
    bench = Bench(tmp_path, manager, ASKED)
    built = manager.publish(classifier(0), placement(1))
    manager.assign(bench.device, built)
    example = re.search(r"```python\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    assert example is not None
    ended = subprocess.run(
        [sys.executable, "-c", example[1]],
        cwd=bench.folder,
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    lines = ended.stdout.splitlines()
    assert len(lines) == 20
    assert {line.split()[0] for line in lines} <= set(CLASSES)
    assert all(line.split()[2] == "v1" for line in lines)
    assert len({line.split()[3] for line in lines}) == 20


def test_a_device_that_is_not_enrolled_says_so_and_holds_nothing(tmp_path):
    agent = Agent(write_config(tmp_path, ASKED))
    for _ in range(2):
        with pytest.raises(EnrolmentError):
            agent.start()
    with pytest.raises(StoppedError):
        agent.models()
    agent.stop()  # nothing to stop is no error


def test_a_configuration_that_is_wrong_is_refused_before_anything_starts(tmp_path):
    file = tmp_path / "agent.toml"
    file.write_text("[pipeline.motion]\nsauce = 1\n")
    with pytest.raises(ConfigError, match="sauce"):
        Agent(file)


def test_importing_it_does_not_import_the_agent():
    code = "import sys, agent.embedded; print(*sys.modules)"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy = ("agent.daemon", "agent.link", "onnxruntime", "paho", "nacl", "tuf")
    assert [m for m in ended.stdout.split() if m.startswith(heavy)] == []
