"""Running release and candidate on labelled windows that no device holds.

Rule 1: a file is an ``.npz`` of ``x`` (n, channels, samples) float32 and ``y`` (n,) int64, as
        devices have it; what else is in it, such as their ``split``, is not read.
Rule 2: what comes of it is shown beside the devices' figures and decides nothing.
"""

import zipfile
from dataclasses import dataclass
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from agent.contract.messages import Quality
from agent.errors import AgentError
from agent.infer.onnx import OnnxRuntime
from fleet.errors import AdmissionError, RefusedError
from fleet.release.admit import admit_onnx

MAX_FILE_BYTES: Final = 256 * 1024 * 1024
_MEMBERS: Final = {"x": ("float32", 3), "y": ("int64", 1)}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class HeldOutSet:
    """Labelled windows of the operator's own.

    Attributes:
        x: (n, channels, samples) float32, raw units, finite.
        y: (n,) int64 class numbers from 0.
        digest: SHA-256 of the file, hex.

    """

    x: NDArray[np.float32]
    y: NDArray[np.int64]
    digest: str


def read_held_out(path: Path) -> HeldOutSet:
    """Read a file of labelled windows.

    Raises:
        RefusedError: There is none, or it is not what rule 1 says; names file and array.

    """
    try:
        size = path.stat().st_size
        if size > MAX_FILE_BYTES:
            raise RefusedError(f"{path} has {size} bytes; at most {MAX_FILE_BYTES} may be")
        content = path.read_bytes()
        found = {name: _member(content, name) for name in _MEMBERS}
    except FileNotFoundError as why:
        raise RefusedError(f"there is no file of labelled windows at {path}") from why
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as why:
        raise RefusedError(f"{path} is not a file of labelled windows: {why}") from why
    for name, (dtype, dimensions) in _MEMBERS.items():
        array = found[name]
        if array.dtype.name != dtype or array.ndim != dimensions:
            raise RefusedError(
                f"{path}: {name!r} is {array.dtype.name} with {array.ndim} dimensions; it must be "
                f"{dtype} with {dimensions}"
            )
    x, y = found["x"], found["y"]
    if not len(x) or len(x) != len(y):
        raise RefusedError(f"{path} has {len(x)} windows and {len(y)} labels")
    if y.min() < 0 or not np.isfinite(x).all():
        raise RefusedError(f"{path}: a label is below 0, or a window holds values not finite")
    return HeldOutSet(x=x, y=y, digest=sha256(content).hexdigest())


def right_answers(model: bytes, probabilities: str, held_out: HeldOutSet) -> Quality:
    """Return how often a model's likeliest class is the label.

    Args:
        model: ONNX bytes.
        probabilities: Name of the output that holds them.
        held_out: What it is asked.

    Raises:
        AdmissionError: The model is not admissible, or does not take these windows.

    """
    admit_onnx(model)
    try:
        runtime = OnnxRuntime(model)
        place = [t.name for t in runtime.outputs].index(probabilities)
        said = [int(np.argmax(runtime.infer(w[np.newaxis])[place])) for w in held_out.x]
        runtime.close()
    except (AgentError, ValueError) as why:
        raise AdmissionError(f"the model does not take the held-out windows: {why}") from why
    return Quality(right=int(np.sum(np.array(said) == held_out.y)), windows=len(said))


def _member(content: bytes, name: str) -> NDArray[Any]:
    with zipfile.ZipFile(BytesIO(content)) as archive:
        unpacked = sum(entry.file_size for entry in archive.infolist())
        if unpacked > MAX_FILE_BYTES:
            raise ValueError(f"it unpacks to {unpacked} bytes; at most {MAX_FILE_BYTES} may be")
    with np.load(BytesIO(content), allow_pickle=False) as members:
        array: NDArray[Any] = members[name]
    return array
