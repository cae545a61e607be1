"""Golden vectors: inputs with the outputs that every variant must reproduce.

The file is an ``.npz`` of format 1: ``v`` (the number 1), and for each input and output
an array ``in.<name>`` or ``out.<name>`` whose first axis counts the vectors.

Rule 1: they are made at publication by the device's own runtime code, and checked on the
        device before a release serves and after each change of runtime.
Rule 2: the vectors of a stateful model are one stream in their order, from its beginning, so
        that its state is checked as well.
Rule 3: of a model whose answers differ in shape, those vectors are kept whose answers have the
        shapes of the first.
Rule 4: a check never raises for what is in the file or in the model: whatever keeps the
        vectors from being reproduced is the finding.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Final

import numpy as np

from agent.contract.messages import Finding
from agent.errors import ContractError, ModelError, UnsupportedError, WorkerError
from agent.infer.arrays import read_npz, write_npz
from agent.infer.runtime import Array, Runtime
from agent.infer.stateful import Stateful

FORMAT: Final = 1
MAX_GOLDEN_BYTES: Final = 64 * 1024 * 1024
MAX_VECTORS: Final = 1024
CHECK: Final = "golden-vectors"


def make_golden(runtime: Runtime, inputs: Sequence[Mapping[str, Array] | Array]) -> bytes:
    """Return the golden file of a model's answers to some inputs.

    Args:
        runtime: The loaded model.
        inputs: One entry a vector: arrays by input name, or the one input's array.

    Raises:
        InputRefusedError: An input does not fit the model.
        ModelError: The model failed, answers with something not finite, or there are no
            inputs or too many.

    """
    if not 1 <= len(inputs) <= MAX_VECTORS:
        raise ModelError(f"{len(inputs)} golden inputs were given; 1 to {MAX_VECTORS} are taken")
    vectors = [
        {runtime.inputs[0].name: vector} if isinstance(vector, np.ndarray) else dict(vector)
        for vector in inputs
    ]
    infer = _in_order(runtime)
    answers = [infer(vector) for vector in vectors]
    kept = [row for row, answer in enumerate(answers) if _shapes(answer) == _shapes(answers[0])]
    if isinstance(runtime, Stateful) and len(kept) != len(answers):
        kept = kept[:1]  # a stream with holes in it is another stream
    members: dict[str, Array] = {"v": np.array(FORMAT, np.int64)}
    for side, rows in (("in", vectors), ("out", answers)):
        for name in rows[0]:
            stacked = np.stack([rows[row][name] for row in kept])
            if stacked.dtype.kind == "f" and not np.isfinite(stacked).all():
                raise ModelError(f"the model answers a golden input with a NaN in {name!r}")
            members[f"{side}.{name}"] = stacked.astype(str) if _is_text(stacked) else stacked
    return write_npz(members)


def check_golden(runtime: Runtime, content: bytes, tolerance: float) -> Finding:
    """Return whether a model reproduces a golden file within an absolute difference.

    Raises:
        WorkerError: The process that ran the model died; that says nothing about vectors.

    """
    try:
        wanted = _read_golden(content)
        worst, where, vectors = _compare(runtime, wanted)
    except WorkerError:
        raise
    except (ContractError, ModelError) as why:
        return Finding(check=CHECK, held=False, why=str(why)[:500])
    figures = f"largest difference {worst:.3g} in {where!r}; at most {tolerance:g} may be"
    return Finding(check=CHECK, held=worst <= tolerance, why=f"{vectors} vectors, {figures}")


def require_golden(content: bytes) -> None:
    """Return if a golden file can be read.

    Raises:
        ContractError: It is no archive of arrays, or a hostile one; the class says what.
        ModelError: It does not hold the same number of vectors for each tensor.

    """
    _read_golden(content)


def _read_golden(content: bytes) -> dict[str, Array]:
    members = read_npz(content, limit_bytes=MAX_GOLDEN_BYTES)
    version = members.pop("v", None)
    known = version is not None and version.shape == () and version.dtype.kind in "iu"
    if version is None or not known or int(version) != FORMAT:
        raise UnsupportedError(f"golden file has version {version}; this program knows {FORMAT}")
    lengths = {array.shape[:1] for array in members.values()}
    readable = all(array.ndim and array.dtype.kind in "biufU" for array in members.values())
    if len(lengths) != 1 or not members or not readable:
        raise ModelError(
            "golden file does not hold the same number of vectors of numbers or texts for each "
            "tensor"
        )
    return members


def _compare(runtime: Runtime, wanted: dict[str, Array]) -> tuple[float, str, int]:
    inputs = {n.removeprefix("in."): a for n, a in wanted.items() if n.startswith("in.")}
    outputs = {n.removeprefix("out."): a for n, a in wanted.items() if n.startswith("out.")}
    known = {tensor.name for tensor in runtime.outputs}
    if not inputs or set(outputs) != known:
        raise ModelError(
            f"golden file has outputs {sorted(outputs)}; the model has {sorted(known)}"
        )
    count = len(next(iter(inputs.values())))
    if not 1 <= count <= MAX_VECTORS:
        raise ModelError(f"golden file holds {count} vectors; 1 to {MAX_VECTORS} are checked")
    worst, where = 0.0, next(iter(outputs))
    infer = _in_order(runtime)
    for row in range(count):
        answers = infer({name: np.asarray(array[row]) for name, array in inputs.items()})
        for name, array in outputs.items():
            found = answers[name]
            if found.shape != array[row].shape:
                raise ModelError(
                    f"output {name!r} is of shape {found.shape}; golden is {array[row].shape}"
                )
            difference = _difference(found, array[row])
            if not difference <= worst:
                worst, where = difference, name
            if np.isnan(worst):
                return float("inf"), where, count
    return worst, where, count


def _in_order(runtime: Runtime) -> Callable[[Mapping[str, Array]], dict[str, Array]]:
    return runtime.one_stream() if isinstance(runtime, Stateful) else runtime.infer_named


def _shapes(answer: Mapping[str, Array]) -> dict[str, tuple[int, ...]]:
    return {name: array.shape for name, array in answer.items()}


def _is_text(array: Array) -> bool:
    return array.dtype.kind in "OSU"


def _difference(found: Array, wanted: Array) -> float:
    if not found.size:
        return 0.0
    if _is_text(found) or _is_text(wanted):
        return 0.0 if np.array_equal(found.astype(str), wanted.astype(str)) else float("inf")
    return float(np.abs(found.astype(np.float64) - wanted.astype(np.float64)).max())
