"""The agent's path from window to recorded answer, beside a bare ``session.run``.

Rule 1: the agent's path is ``Serving.answer`` as the daemon uses it: input check, finite
        check, inference, class, and recording into a ``WindowRecorder``, its folding included.
Rule 2: raw is ``InferenceSession.run`` of the same file with the same options, the input
        already in its dictionary.
Rule 3: both run in blocks of 256 calls that alternate, in changing order, in one process.
        Two neighbours are a pair; the figures are medians over the calmer half of the pairs
        (by the sum of both, so neither side is favoured), because other programs disturb.
"""

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from time import perf_counter_ns

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

from agent.contract.manifest import Release, Tensor, Variant, describe_artifact
from agent.infer.onnx import NAME, OnnxRuntime
from agent.infer.serving import Loaded, Serving
from agent.observe.windows import BLOCK, WindowRecorder

MOTION = Path(__file__).parents[1] / "base_model" / "motion-int8.onnx"
DIGEST = "0" * 64


def main() -> int:
    """Measure both models and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", required=True, metavar="FILE", help="- is standard output")
    parser.add_argument("--seconds", type=float, default=6.0, help="for each model")
    arguments = parser.parse_args()
    if not MOTION.is_file():
        print(f"inference: {MOTION} is missing: train it first", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory() as folder:
        large = Path(folder) / "large.onnx"
        large.write_bytes(large_model())
        figures = [
            measure("motion-int8", MOTION, arguments.seconds),
            measure("cnn-96x96-float32", large, arguments.seconds),
        ]
    text = json.dumps({"models": figures}, indent=2) + "\n"
    if arguments.json == "-":
        sys.stdout.write(text)
    else:
        Path(arguments.json).write_text(text)
    return 0


def measure(name: str, path: Path, seconds: float) -> dict[str, str | float]:
    """Return the medians of one model, in µs a call."""
    serving, shape, input_name = serve(path)
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    session = raw_session(path)
    feed = {input_name: x}
    raw: Callable[[], object] = lambda: session.run(None, feed)  # noqa: E731 -- nothing to name
    agent: Callable[[], object] = lambda: serving.answer(x)  # noqa: E731
    block_us(raw), block_us(agent)
    pairs: list[dict[str, float]] = []
    end = perf_counter_ns() + int(seconds * 1e9)
    sides = [("raw", raw), ("agent", agent)]
    while perf_counter_ns() < end or len(pairs) < 10:  # noqa: PLR2004 -- at least
        sides.reverse()
        pairs.append({side: block_us(call) for side, call in sides})
    assert serving.windows == (len(pairs) + 1) * BLOCK, "a window was lost"
    calm = sorted(pairs, key=lambda pair: sum(pair.values()))[: len(pairs) // 2]
    raw_us, agent_us = (statistics.median(p[side] for p in calm) for side in ("raw", "agent"))
    return {
        "name": name,
        "raw_us": round(raw_us, 2),
        "agent_us": round(agent_us, 2),
        "ratio": round(agent_us / raw_us, 3),
    }


def block_us(call: Callable[[], object]) -> float:
    """Return the mean of one block of calls, in µs."""
    started = perf_counter_ns()
    for _ in range(BLOCK):
        call()
    return (perf_counter_ns() - started) / BLOCK / 1000


def serve(path: Path) -> tuple[Serving, tuple[int, ...], str]:
    """Return a serving slot as the daemon has it, and what its model takes."""
    runtime = OnnxRuntime(path)
    outputs = {tensor.name: tensor for tensor in runtime.outputs}
    classes = outputs["probabilities"].shape[-1]
    model = describe_artifact(path.read_bytes())
    release = Release(
        target="models/bench/1-0.json",
        family="bench",
        version="1-0",
        slot="bench",
        counter=1,
        created_ms=0,
        variants=(
            Variant(
                name="bench",
                runtime=NAME,
                model=model,
                inputs=runtime.inputs,
                outputs=runtime.outputs,
            ),
        ),
        golden=model,
        classes=tuple(f"class {number}" for number in range(classes)),
        probabilities="probabilities",
    )
    recorder = WindowRecorder("bench", DIGEST, classes, now_ms=0)
    serving = Serving()
    serving.serve(Loaded(digest=DIGEST, release=release, runtime=runtime, observer=recorder))
    only: Tensor = runtime.inputs[0]
    return serving, only.shape, only.name


def raw_session(path: Path) -> ort.InferenceSession:
    """Return a bare session with the agent's options: one thread that does not spin."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def large_model() -> bytes:
    """Return an image CNN of some milliseconds, the same bytes every time."""
    rng = np.random.default_rng(7)
    nodes, weights, last, channels = [], [], "x", 3
    for number, width in enumerate((24, 48, 64, 96)):
        kernel = rng.normal(0, 0.1, (width, channels, 3, 3)).astype(np.float32)
        weights.append(numpy_helper.from_array(kernel, f"w{number}"))
        pads = {"pads": [1, 1, 1, 1], "strides": [1 + (number > 0)] * 2}
        nodes.append(helper.make_node("Conv", [last, f"w{number}"], [f"c{number}"], **pads))
        nodes.append(helper.make_node("Relu", [f"c{number}"], [f"r{number}"]))
        last, channels = f"r{number}", width
    weights.append(numpy_helper.from_array(rng.normal(size=(10, 96)).astype(np.float32), "w"))
    nodes += [
        helper.make_node("GlobalAveragePool", [last], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["embedding"]),
        helper.make_node("Gemm", ["embedding", "w"], ["logits"], transB=1),
        helper.make_node("Softmax", ["logits"], ["probabilities"]),
    ]
    graph = helper.make_graph(
        nodes,
        "large",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 96, 96])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, [1, 10])],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


if __name__ == "__main__":
    sys.exit(main())
