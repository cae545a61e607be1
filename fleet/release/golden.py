"""Golden vectors: inputs and the outputs that every device must reproduce.

Made by the device's own runtime and code (``agent.infer``), so that what is promised
is what a device computes. This is also the first time that an admitted file runs.
"""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.contract.manifest import State, Tensor, Variant
from agent.errors import ContractError, ModelError, RuntimeMissingError
from agent.infer.arrays import read_npz
from agent.infer.golden import MAX_GOLDEN_BYTES, make_golden
from agent.infer.variants import load
from fleet.errors import AdmissionError

_WORDS = ("0", "1", "a", "b", "one word")

GoldenInput = Mapping[str, NDArray[Any]] | NDArray[Any]


def golden_vectors(variant: Variant, model: bytes, inputs: Sequence[GoldenInput]) -> bytes:
    """Run the model on each input and return the golden ``.npz``.

    Args:
        variant: What the manifest will say about the model.
        model: Its bytes, admitted.
        inputs: Arrays of the shape of the model's one input, or arrays by input name.

    Raises:
        AdmissionError: The device's runtime does not load or run it.

    """
    with tempfile.TemporaryDirectory(prefix="fieldfare-golden-") as folder:
        path = Path(folder, "model")
        path.write_bytes(model)
        try:
            runtime = load(variant, path)
            try:
                return make_golden(runtime, inputs)
            finally:
                runtime.close()
        except (ModelError, RuntimeMissingError) as why:
            raise AdmissionError(
                f"the device's runtime does not run this model on its golden inputs: {why}; "
                "'golden_inputs' in its description names inputs that it takes"
            ) from why


def asked_inputs(inputs: Sequence[Tensor], states: Sequence[State]) -> tuple[Tensor, ...]:
    """Return the inputs that callers give: all but those that are states."""
    kept = {state.input for state in states}
    return tuple(tensor for tensor in inputs if tensor.name not in kept)


def fit_inputs(given: Sequence[GoldenInput], inputs: Sequence[Tensor]) -> tuple[GoldenInput, ...]:
    """Return golden inputs without the axis that counted them, where the model has no such."""
    ranks = {tensor.name: len(tensor.shape) for tensor in inputs}
    return tuple(
        vector
        if isinstance(vector, np.ndarray)
        else {
            name: array[0] if array.ndim == ranks.get(name, -1) + 1 and len(array) == 1 else array
            for name, array in vector.items()
        }
        for vector in given
    )


def synthetic_inputs(
    inputs: Sequence[Tensor], *, count: int = 8, seed: int = 7
) -> tuple[dict[str, NDArray[Any]], ...]:
    """Return seeded inputs for a model without examples; -1 becomes 1.

    Floats are standard normal, bytes take their whole range, wider integers are 0 or 1, because
    they may be places in a table of unknown length.
    """
    chance = np.random.default_rng(seed)
    return tuple({t.name: _synthetic(t, chance) for t in inputs} for _ in range(count))


def _synthetic(tensor: Tensor, chance: np.random.Generator) -> NDArray[Any]:
    shape = [1 if size < 0 else size for size in tensor.shape]
    if tensor.dtype == "string":
        return np.asarray(chance.choice(_WORDS, shape))
    dtype = np.dtype(tensor.dtype)
    if dtype.kind == "f":
        return np.asarray(chance.standard_normal(shape)).astype(dtype)
    if dtype.kind in "iu" and dtype.itemsize == 1:
        limits = np.iinfo(dtype)
        return np.asarray(chance.integers(limits.min, limits.max + 1, shape)).astype(dtype)
    return np.asarray(chance.integers(0, 2, shape)).astype(dtype)


def golden_inputs(content: bytes) -> tuple[dict[str, NDArray[Any]], ...]:
    """Return the inputs of a golden file, to make those of a candidate from them.

    Raises:
        AdmissionError: It is not a golden file.

    """
    try:
        members = read_npz(content, limit_bytes=MAX_GOLDEN_BYTES)
    except (ContractError, ModelError) as why:
        raise AdmissionError(f"the golden vectors do not read: {why}") from why
    inputs = {n.removeprefix("in."): a for n, a in members.items() if n.startswith("in.")}
    counts = {len(a) for a in inputs.values() if a.ndim}
    if len(counts) != 1:
        raise AdmissionError("the golden vectors hold not the same number of inputs for each name")
    return tuple({n: a[row] for n, a in inputs.items()} for row in range(counts.pop()))
