"""From trained weights to an int8 base model, calibrated on people 1 to 4, as the demo's is.

Usage: python -m scripts.study_program.seeded_base WEIGHTS.npz MODEL.onnx
"""

import logging
import sys
from pathlib import Path

import numpy as np

from fleet.release.quantise import quantise_static
from scripts.base_model.graph import build_graph
from scripts.base_model.network_settings import PEOPLE
from scripts.base_model.recordings import read_recordings, windows_of

CALIBRATION_STEP = 6


def main(weights: Path, model: Path) -> None:
    """Write the model."""
    logging.getLogger().setLevel(logging.ERROR)
    with np.load(weights) as files:
        full = build_graph({n: files[n] for n in files.files})
    known = np.concatenate([windows_of(r.samples) for r in read_recordings() if r.person in PEOPLE])
    model.write_bytes(quantise_static(full, list(known[::CALIBRATION_STEP, None])))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
