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

from agent.contract.manifest import Tensor, Variant
from agent.errors import ContractError, ModelError, RuntimeMissingError
from agent.infer.arrays import read_npz
from agent.infer.golden import MAX_GOLDEN_BYTES, make_golden
from agent.infer.variants import load
from fleet.errors import AdmissionError

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
            raise AdmissionError(f"the device's runtime does not run this model: {why}") from why


def synthetic_inputs(
    inputs: Sequence[Tensor], *, count: int = 8, seed: int = 7
) -> tuple[dict[str, NDArray[Any]], ...]:
    """Return seeded standard normal inputs for a model without examples; -1 becomes 1."""
    chance = np.random.default_rng(seed)
    return tuple(
        {
            tensor.name: np.asarray(
                chance.standard_normal([1 if d < 0 else d for d in tensor.shape])
            ).astype(tensor.dtype)
            for tensor in inputs
        }
        for _ in range(count)
    )


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
