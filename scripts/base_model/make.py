"""From trained weights to the committed files: fp32 and int8 graphs, golden inputs, metrics.

Usage: make.py WEIGHTS.npz FOLDER. Calibration and golden windows are of people 1 to 4;
people 5 to 8 are only measured.
"""

import json
import logging
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from graph import build_graph
from graph_tflite import build_tflite
from network_settings import EPOCHS, PEOPLE, SEED
from numpy.typing import NDArray
from recordings import (
    HOP,
    RATE_HZ,
    SAMPLES,
    SIDES,
    WITHHELD,
    channel_names,
    class_names,
    labelled_windows,
    read_recordings,
    windows_of,
)

from fleet.release.quantise import quantise_static
from scripts.base_model.tflite_motion import motion_tflite

CALIBRATION_STEP, GOLDEN_COUNT = 6, 8
STRANGERS = (5, 6, 7, 8)


def accuracy(model: bytes, x: NDArray[np.float32], y: NDArray[np.int64]) -> float:
    """Return the share of windows (n, 6, 128) that the model names rightly."""
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    answers = [session.run(["probabilities"], {"window": w[None]})[0].argmax() for w in x]
    return float(np.mean(np.array(answers) == y))


def measure(model: bytes) -> dict[str, float]:
    """Return the accuracy on the withheld windows of each device, and their mean."""
    recordings, found = read_recordings(), {}
    for person in STRANGERS:
        for side, name in enumerate(SIDES):
            own = [r for r in recordings if (r.person, r.side) == (person, side)]
            x, y, split = labelled_windows(own)
            kept = split == WITHHELD
            found[f"person-{person}-{name}"] = round(accuracy(model, x[kept], y[kept]), 4)
    return {**found, "mean": round(float(np.mean(list(found.values()))), 4)}


def main(weights: Path, folder: Path) -> None:
    """Write every artifact of the base model."""
    logging.getLogger().setLevel(logging.ERROR)
    with np.load(weights) as files:
        full = build_graph({n: files[n] for n in files.files})
    known = np.concatenate([windows_of(r.samples) for r in read_recordings() if r.person in PEOPLE])
    small = quantise_static(full, list(known[::CALIBRATION_STEP, None]))
    (folder / "motion-fp32.onnx").write_bytes(full)
    (folder / "motion-int8.onnx").write_bytes(small)
    (folder / "motion-fp32.tflite").write_bytes(motion_tflite(full))
    (folder / "motion-int8.tflite").write_bytes(motion_tflite(small))
    (folder / "motion.tflite").write_bytes(build_tflite(full))
    chosen = np.linspace(0, len(known) - 1, GOLDEN_COUNT).astype(int)
    np.savez(folder / "motion-golden.npz", window=known[chosen])
    about = {
        "family": "motion",
        "slot": "motion",
        "windowing": {
            "channels": channel_names(),
            "samples": SAMPLES,
            "hop": HOP,
            "rate_hz": RATE_HZ,
        },
        "classes": class_names(),
        "probabilities": "probabilities",
        "golden_inputs": "motion-golden.npz",
    }
    (folder / "motion-int8.json").write_text(json.dumps(about, indent=2) + "\n")
    metrics = {
        "seed": SEED,
        "epochs": EPOCHS,
        "trained_on_people": sorted(PEOPLE),
        "measured_on": "withheld windows of people 5 to 8, none of whom trained it",
        "size_bytes": {"fp32": len(full), "int8": len(small)},
        "accuracy_fp32": measure(full),
        "accuracy_int8": measure(small),
    }
    (folder / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n")
    print(json.dumps(metrics, indent=2))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
