"""What a device fetches of a next release that has the one before: bytes over full.

Rule 1: tuned is the demo's motion model in int8 with an int8 head, before and after the
        agent's own trainer (``train_head``) taught its head the *train* windows of person 5.
        ``delta_ratio`` is the smallest source over the artifact as it is.
Rule 2: tuned float is the same with the demo's float32 head, of which every byte is fresh.
Rule 3: retrained is the int8 model with every weight in another place: the same figures in
        it, and nothing in common. ``retrained_ratio`` is the smallest source over
        compressed full: 1.0 is compressed full itself.
Rule 4: each source is made by the publisher's code, which expands it again and compares.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
from onnx import ModelProto, numpy_helper

from agent.contract.manifest import Head
from agent.contract.sources import FULL
from agent.infer.labelled import embed
from agent.infer.onnx import OnnxRuntime
from agent.learn.samples import Split
from agent.learn.trainer import HeadTraining, LinearHead, train_head
from fleet.release.build import find_head
from fleet.release.candidate import read_head, with_head
from fleet.release.delta import offer
from fleet.release.quantise import quantise_static
from scripts.base_model.recordings import labelled_windows, read_recordings, windows_of

MODELS = Path(__file__).parents[1] / "base_model"
PERSON, SIDE = 5, 0
CALIBRATION_STEP = 60


def tuned(model: bytes) -> bytes:
    """Return the model after a device's trainer taught its head one person's windows."""
    head = find_head(model)
    if head is None:
        raise SystemExit("delta: the demo's model has no head")
    own = [r for r in read_recordings() if (r.person, r.side) == (PERSON, SIDE)]
    x, y, split = labelled_windows(own)
    seen = split == Split.TRAIN
    embeddings = embed(OnnxRuntime(model), x[seen], head.embedding)
    found = train_head(_linear(model, head), embeddings, y[seen], HeadTraining())
    return with_head(model, head, found.weight, found.bias)


def _linear(model: bytes, head: Head) -> LinearHead:
    weight, bias = read_head(model, head)
    return LinearHead(weight=weight, bias=bias)


def retrained(model: bytes) -> bytes:
    """Return the model with the values of every weight shuffled."""
    chance, proto = np.random.default_rng(7), ModelProto.FromString(model)
    for tensor in proto.graph.initializer:
        values = numpy_helper.to_array(tensor)
        shuffled = chance.permutation(values.reshape(-1)).reshape(values.shape)
        tensor.CopyFrom(numpy_helper.from_array(shuffled, tensor.name))
    return bytes(proto.SerializeToString(deterministic=True))


def smallest(content: bytes, base: bytes) -> int:
    """Return how many bytes a device with ``base`` fetches."""
    return min((s.size for s in offer(content, [base]).artifact.sources), default=len(content))


def measure() -> dict[str, float]:
    """Return bytes and ratios."""
    known = np.concatenate([windows_of(r.samples) for r in read_recordings() if r.person < PERSON])
    calibration = list(known[::CALIBRATION_STEP, None])

    def int8(model: bytes) -> bytes:
        return quantise_static(model, calibration, operators=("Conv", "Gemm"))

    full, demo = (MODELS / f"motion-{name}.onnx" for name in ("fp32", "int8"))
    before, after = int8(full.read_bytes()), int8(tuned(full.read_bytes()))
    running = demo.read_bytes()
    head, float_head = smallest(after, before), smallest(tuned(running), running)
    new = retrained(before)
    compressed = min(s.size for s in offer(new, []).artifact.sources if s.kind == FULL)
    return {
        "full_bytes": len(after),
        "delta_bytes": head,
        "delta_ratio": round(head / len(after), 4),
        "float_head_full_bytes": len(running),
        "float_head_delta_bytes": float_head,
        "float_head_delta_ratio": round(float_head / len(running), 4),
        "retrained_full_bytes": len(new),
        "retrained_compressed_bytes": compressed,
        "retrained_ratio": round(smallest(new, before) / compressed, 4),
    }


def main() -> int:
    """Measure and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", required=True, metavar="FILE", help="- is standard output")
    arguments = parser.parse_args()
    text = json.dumps(measure(), indent=2) + "\n"
    if arguments.json == "-":
        sys.stdout.write(text)
    else:
        Path(arguments.json).write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
