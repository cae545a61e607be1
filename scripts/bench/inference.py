"""The agent's path from window to recorded answer, beside the bare call of the runtime.

Rule 1: the agent's path is ``Serving.answer`` as the daemon uses it, with the recorder that the
        daemon makes: input check, finite check, inference, latency, confidence, classes,
        sketches of outputs and of sampled inputs by channel, their folding included.
Rule 2: raw is ``session.run(None, feed)`` of onnxruntime, and ``set_tensor``, ``invoke`` and
        ``get_tensor`` of LiteRT, of the same file with the same options, one thread.
Rule 3: both run in blocks that alternate, in changing order, in one process. A block is
        measured in processor time of its thread, in which all of both is done: what other
        programs take of the machine is no cost of either. Two neighbours are a pair; the
        figures are medians over the calmer half of the pairs (by the sum of both, so
        neither side is favoured), because others also empty the caches.
Rule 4: a block holds one folding of what was noted; of a model of more than 50 µs, whose
        folding is less than a thousandth, it is as many calls as take 12 ms.
"""

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from time import perf_counter_ns, thread_time_ns
from typing import Any

import numpy as np
import onnxruntime as ort
from ai_edge_litert.interpreter import Interpreter

from agent.config import ObserveConfig
from agent.config_inference import PipelineConfig
from agent.contract.manifest import Release, Variant, describe_artifact
from agent.daemon.watching import recorder_of
from agent.infer import litert, onnx
from agent.infer.litert import LiteRtRuntime
from agent.infer.onnx import OnnxRuntime
from agent.infer.serving import Loaded, Serving
from agent.observe.windows import BLOCK
from scripts.bench import inference_models

MOTION = Path(__file__).parents[1] / "base_model"
DIGEST = "0" * 64
FOLDING_SHOWS_US = 50.0


@dataclass(frozen=True, slots=True)
class Subject:
    """One model file in one runtime."""

    name: str
    runtime: str
    path: Path


def main() -> int:
    """Measure every model and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", required=True, metavar="FILE", help="- is standard output")
    parser.add_argument("--seconds", type=float, default=6.0, help="for each model")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        figures = [measure(subject, arguments.seconds) for subject in subjects(Path(folder))]
    text = json.dumps({"models": figures}, indent=2) + "\n"
    if arguments.json == "-":
        sys.stdout.write(text)
    else:
        Path(arguments.json).write_text(text)
    return 0


def subjects(folder: Path) -> Iterator[Subject]:
    """Return what is measured; files that are built lie in ``folder``."""
    for form in ("int8", "fp32"):
        yield Subject(f"motion-{form}", onnx.NAME, MOTION / f"motion-{form}.onnx")
        yield Subject(f"motion-{form}", litert.NAME, MOTION / f"motion-{form}.tflite")
    built = {
        ("perceptron-float32", onnx.NAME): inference_models.small_onnx,
        ("perceptron-float32", litert.NAME): inference_models.small_tflite,
        ("cnn-96x96-float32", onnx.NAME): inference_models.large_onnx,
        ("cnn-96x96-float32", litert.NAME): inference_models.large_tflite,
    }
    for (name, runtime), build in built.items():
        path = folder / f"{name}.{runtime}"
        path.write_bytes(build())
        yield Subject(name, runtime, path)


def measure(subject: Subject, seconds: float) -> dict[str, str | float]:
    """Return the medians of one model, in µs a call."""
    serving, x = serve(subject)
    raw = raw_onnx(subject.path, x) if subject.runtime == onnx.NAME else raw_litert(subject.path, x)
    agent: Callable[[], object] = partial(serving.answer, x)
    calls = calls_of(raw)
    block_us(agent, calls)
    pairs: list[dict[str, float]] = []
    end = perf_counter_ns() + int(seconds * 1e9)
    sides = [("raw", raw), ("agent", agent)]
    while perf_counter_ns() < end or len(pairs) < 10:  # noqa: PLR2004 -- at least
        sides.reverse()
        pairs.append({side: block_us(call, calls) for side, call in sides})
    assert serving.windows == (len(pairs) + 1) * calls, "a window was lost"
    calm = sorted(pairs, key=lambda pair: sum(pair.values()))[: max(len(pairs) // 2, 3)]
    raw_us, agent_us = (statistics.median(p[side] for p in calm) for side in ("raw", "agent"))
    return {
        "name": subject.name,
        "runtime": subject.runtime,
        "raw_us": round(raw_us, 2),
        "agent_us": round(agent_us, 2),
        "added_us": round(agent_us - raw_us, 2),
        "ratio": round(agent_us / raw_us, 3),
    }


def calls_of(call: Callable[[], object]) -> int:
    """Return how many calls make a block, after the first ones, which are slower."""
    fastest = min(block_us(call, 8) for _ in range(10))
    return BLOCK if fastest <= FOLDING_SHOWS_US else max(1, int(12_000 / fastest))


def block_us(call: Callable[[], object], calls: int) -> float:
    """Return the mean of one block of calls, in µs of processor time."""
    started = thread_time_ns()
    for _ in range(calls):
        call()
    return (thread_time_ns() - started) / calls / 1000


def serve(subject: Subject) -> tuple[Serving, Any]:
    """Return a serving slot as the daemon has it, and an input for it."""
    is_onnx = subject.runtime == onnx.NAME
    runtime = OnnxRuntime(subject.path) if is_onnx else LiteRtRuntime(subject.path)
    outputs = {tensor.name: tensor for tensor in runtime.outputs}
    model = describe_artifact(subject.path.read_bytes())
    variant = Variant(
        name="bench",
        runtime=subject.runtime,
        model=model,
        inputs=runtime.inputs,
        outputs=runtime.outputs,
    )
    release = Release(
        target="models/bench/1-0.json",
        family="bench",
        version="1-0",
        slot="bench",
        counter=1,
        created_ms=0,
        variants=(variant,),
        golden=model,
        classes=tuple(f"class {n}" for n in range(outputs["probabilities"].shape[-1])),
        probabilities="probabilities",
    )
    recorder = recorder_of(
        "bench",
        DIGEST,
        release,
        runtime,
        pipeline=PipelineConfig(),
        observe=ObserveConfig(),
        now_ms=0,
        numbers=count(),
    )
    serving = Serving()
    serving.serve(Loaded(digest=DIGEST, release=release, runtime=runtime, observer=recorder))
    shape = runtime.inputs[0].shape
    return serving, np.random.default_rng(0).normal(size=shape).astype(np.float32)


def raw_onnx(path: Path, x: Any) -> Callable[[], object]:
    """Return the bare call with the agent's options: one thread that does not spin."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    feed = {session.get_inputs()[0].name: x}
    return lambda: session.run(None, feed)


def raw_litert(path: Path, x: Any) -> Callable[[], object]:
    """Return the bare call of the interpreter, one thread."""
    interpreter = Interpreter(model_path=str(path), num_threads=1)
    interpreter.allocate_tensors()
    given = interpreter.get_input_details()[0]["index"]
    told = [found["index"] for found in interpreter.get_output_details()]

    def call() -> object:
        interpreter.set_tensor(given, x)
        interpreter.invoke()
        return [interpreter.get_tensor(index) for index in told]

    return call


if __name__ == "__main__":
    sys.exit(main())
