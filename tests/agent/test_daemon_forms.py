"""A device that goes from an ONNX release to TensorFlow Lite ones."""

from pathlib import Path

import numpy as np
import pytest

from agent.config import ObserveConfig
from agent.config_inference import PipelineConfig
from agent.contract.messages import Assigned, Hosted
from agent.daemon.serving import Inference
from agent.disk import Disk
from agent.infer.requests import Request
from agent.update.store import Store
from fleet.release.build import build_release
from tests import small_tflite
from tests.agents import read_status
from tests.benches import LABELLED, PIPELINE, Bench, placement
from tests.brokers import Mosquitto
from tests.small_manager import SmallManager
from tests.small_models import SAMPLES, classifier

LIBRARIES = (
    Hosted(name="onnx", version="1", library="onnxruntime"),
    Hosted(name="tflite", version="1", library="ai-edge-litert"),
)


def test_one_slot_swaps_from_onnx_to_floats_to_int8_and_answers_floats(tmp_path: Path):
    store = Store(Disk(tmp_path))
    inference = Inference(
        {"motion": PipelineConfig()},
        store,
        hardware="generic-linux",
        published=(),
        put=lambda _: None,
        wall_ms=lambda: 1,
        observe=ObserveConfig(),
    )
    window = np.random.default_rng(0).normal(size=(1, 3, SAMPLES)).astype(np.float32)
    answers = []
    files = (classifier(), small_tflite.classifier(), small_tflite.quantised())
    for counter, model in enumerate(files, 1):
        placed = placement(counter)
        built = build_release(model, placed, golden_inputs=None, metrics={}, now_ms=1)
        for digest, content in {**built.artifacts, built.digest: built.manifest}.items():
            store.put(digest, content)
        assigned = Assigned(target=built.release.target, digest=built.digest, counter=counter)
        inference.serve("motion", assigned, None, measure=False, installed=LIBRARIES)
        response = inference.request("motion", Request(inputs={"x": window}))
        assert response.release == built.digest
        answers.append(response.outputs["probabilities"])
    onnx, lite, small = answers
    np.testing.assert_allclose(onnx, lite, atol=1e-4)
    np.testing.assert_allclose(onnx, small, atol=0.12)
    assert small.dtype == np.float32
    inference.stop()


@pytest.mark.broker
def test_a_tflite_release_is_fetched_checked_proven_and_served_after_an_onnx_one(tmp_path):
    broker = Mosquitto(tmp_path / "broker").start()
    try:
        with SmallManager(tmp_path / "home", broker) as manager:
            bench = Bench(tmp_path, manager, PIPELINE + LABELLED)
            first = manager.publish(classifier(0), placement(1))
            second = manager.publish(small_tflite.classifier(0), placement(2))
            assert second.release.variants[0].runtime == "tflite"
            with bench.run() as agent:
                bench.install(agent, first)
                manager.assign(bench.device, second)
                bench.until(agent, lambda: bench.heard.outcome_of(second.digest) == ["succeeded"])
                bench.until(agent, lambda: bench.current() == second.digest)
                assert agent.stop() == 0
            inventory = bench.heard.inventory[-1]
            assert {"onnxruntime", "ai-edge-litert"} <= {r.library for r in inventory.runtimes}
            assert inventory.runtimes[0].opset
            assert not bench.heard.events("alarm")
    finally:
        broker.stop()
    assert read_status(bench.folder).slots["motion"].current == second.digest
