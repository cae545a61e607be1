"""A model of a million parameters in a federated run of real processes over a real broker."""

import json
from pathlib import Path

import msgspec
import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from fleet.service.views import CandidateView, RolloutView
from tests.brokers import eventually
from tests.live_fleet import LiveFleet
from tests.manager_home import MODEL

pytestmark = [pytest.mark.broker, pytest.mark.system, pytest.mark.slow, pytest.mark.timeout(600)]
DEVICES = 2
CLASSES, TILES = 17, 80
WIDTH = TILES * 6 * 128
PARAMETERS = CLASSES * WIDTH + CLASSES


def wide_model() -> bytes:
    """Windows many times side by side -> embedding (1, 61440) -> head -> probabilities."""
    chance = np.random.default_rng(0)
    weight = chance.normal(0, 1e-4, (CLASSES, WIDTH)).astype(np.float32)
    constants = {
        "flat.shape": np.array([1, 6 * 128], np.int64),
        "times": np.array([1, TILES], np.int64),
        "head.weight": weight,
        "head.bias": np.zeros(CLASSES, np.float32),
    }
    graph = helper.make_graph(
        [
            helper.make_node("Reshape", ["x", "flat.shape"], ["flat"]),
            helper.make_node("Tile", ["flat", "times"], ["embedding"]),
            helper.make_node(
                "Gemm", ["embedding", "head.weight", "head.bias"], ["logits"], transB=1
            ),
            helper.make_node("Softmax", ["logits"], ["probabilities"]),
        ],
        "wide",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, 6, 128))],
        [
            helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, (1, CLASSES)),
            helper.make_tensor_value_info("embedding", TensorProto.FLOAT, (1, WIDTH)),
        ],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    content: bytes = model.SerializeToString()
    return content


@pytest.fixture(scope="module")
def fleet(tmp_path_factory):
    folder: Path = tmp_path_factory.mktemp("large")
    (folder / "motion.onnx").write_bytes(wide_model())
    about = json.loads(MODEL.with_suffix(".json").read_text())
    known = {k: v for k, v in about.items() if k in {"family", "slot", "classes", "windowing"}}
    known["classes"] += [f"OTHER-{n}" for n in range(len(known["classes"]), CLASSES)]
    (folder / "motion.json").write_text(json.dumps(known))
    with LiveFleet(folder, DEVICES) as made:
        made("model", "publish", folder / "motion.onnx", "--version", "v1")
        asked = made("rollout", "create", "motion/v1", "--canary", DEVICES, "--soak", 0,
                     "-o", "json")  # fmt: skip
        rollout = msgspec.json.decode(asked, type=RolloutView)
        with made.client as client:
            path = f"/rollouts/{rollout.id}"
            eventually(lambda: client.get(path, RolloutView).status == "done", 120)
        yield made


@pytest.mark.parametrize(("updates", "rounds"), [("f32", 2), ("int8", 1)])
def test_a_run_of_a_million_parameters_ends_with_a_candidate(
    fleet: LiveFleet, updates: str, rounds: int
):
    run = fleet.start_run(rounds=rounds, epochs=2, seed=7, updates=updates)
    view = fleet.ended_run(run, 240)
    assert (view.status, view.rounds_completed) == ("finished", rounds), fleet.words()
    assert view.replies == rounds * DEVICES
    with fleet.client as client:
        candidate = client.get(f"/runs/{run}/candidate", CandidateView)
    assert len(candidate.model) > 4 * PARAMETERS
    left = [path for path in (fleet.home / "rounds").rglob("*") if path.is_file()]
    assert left == [], "what a run sent goes with it"
