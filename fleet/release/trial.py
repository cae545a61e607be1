"""One load and one inference of a file in a process that it may kill.

LiteRT and tflite-runtime follow some files to their death, and with them whoever publishes.
So a TensorFlow Lite file is tried in a child before it is loaded here.

    python -m fleet.release.trial FILE
"""

import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from agent.errors import ModelError, RuntimeMissingError
from agent.infer.variants import open_model
from fleet.errors import AdmissionError
from fleet.release.admit import examine_tflite
from fleet.release.golden import synthetic_inputs

SECONDS: Final = 600.0


def require_survivable(content: bytes, *, name: str) -> None:
    """Return if a process lives on that loads a TensorFlow Lite file and runs it once.

    What such a process finds wrong in words is left to who loads the file after it.

    Raises:
        AdmissionError: It does not, or the file is not even to be tried; ``name`` is how it
            is called in the sentence.

    """
    examine_tflite(content, name=name)
    with tempfile.TemporaryDirectory(prefix="fieldfare-trial-") as folder:
        path = Path(folder, "model")
        path.write_bytes(content)
        try:
            child = subprocess.run(
                [sys.executable, "-I", "-m", "fleet.release.trial", str(path)],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired as why:
            raise AdmissionError(f"{name} gave no answer in {SECONDS:g} seconds") from why
    if child.returncode < 0:
        by = signal.Signals(-child.returncode).name
        raise AdmissionError(
            f"{name} kills the process that loads it or runs it ({by}): no device would survive it"
        )


def main(words: Sequence[str]) -> int:
    """Try a model; the status is 0 unless something kills this process."""
    try:
        model = open_model("tflite", Path(words[0]), ())
        model.infer_named(synthetic_inputs(model.inputs, count=1)[0])
    except (ModelError, RuntimeMissingError):
        pass  # the parent will find the same, and say it
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
