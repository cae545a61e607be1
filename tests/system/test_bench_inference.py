"""The inference bench measures every model in both runtimes; its figures depend on the machine."""

import json
import subprocess
from pathlib import Path

import pytest

BENCH = Path(__file__).parents[2] / "scripts/bench/inference"


@pytest.mark.system
def test_the_inference_bench_tells_every_model_in_both_runtimes():
    ended = subprocess.run(
        [BENCH, "--json", "-", "--seconds", "0.1"], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    models = json.loads(ended.stdout)["models"]
    told = {(model["name"], model["runtime"]) for model in models}
    assert {("motion-int8", "onnx"), ("perceptron-float32", "tflite")} <= told
    assert {runtime for _, runtime in told} == {"onnx", "tflite"}
    for model in models:
        assert model["raw_us"] > 0
        assert model["ratio"] == pytest.approx(model["agent_us"] / model["raw_us"], rel=0.01)
