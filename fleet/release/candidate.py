"""From the arrays of a federated run to the model of a candidate release.

Rule 1: a candidate is the running model with other values in the two named
        initialisers of its head; nothing else in the file may differ.
Rule 2: its lineage names the run, its rounds, strategy, seed and cohort, and its parent.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, numpy_helper

from agent.contract.manifest import Head, Lineage
from fleet.errors import AdmissionError


def read_head(model: bytes, head: Head) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return weight (classes, width) and bias (classes,) of a model.

    Raises:
        AdmissionError: The model has no such head.

    """
    found = _initialisers(_parse(model))
    weight, bias = (_float_array(found, name) for name in (head.weight, head.bias))
    if weight.ndim != 2 or bias.shape != weight.shape[:1] or weight.shape[1] != head.width:  # noqa: PLR2004 - a matrix
        raise AdmissionError(f"a head of shapes {weight.shape} and {bias.shape} is no linear layer")
    return weight, bias


def with_head(
    model: bytes, head: Head, weight: NDArray[np.float32], bias: NDArray[np.float32]
) -> bytes:
    """Return the model with a new head.

    Args:
        model: ONNX bytes of the running release.
        head: Where its head is.
        weight: (classes, width) float32, finite.
        bias: (classes,) float32, finite.

    Raises:
        AdmissionError: Names, shapes or dtypes do not fit, a value is not finite, or
            something besides the head would change.

    """
    running = read_head(model, head)
    proto = _parse(model)
    for name, old, new in zip((head.weight, head.bias), running, (weight, bias), strict=True):
        if new.shape != old.shape or new.dtype != np.float32:
            raise AdmissionError(
                f"new {name!r} is {new.dtype} {new.shape}; the running one is "
                f"{old.dtype} {old.shape}"
            )
        if not np.isfinite(new).all():
            raise AdmissionError(f"new {name!r} holds values that are not finite")
        made = numpy_helper.from_array(np.ascontiguousarray(new), name)
        _initialisers(proto)[name].CopyFrom(made)
    candidate: bytes = proto.SerializeToString(deterministic=True)
    _check_only_head_changed(model, candidate, head)
    return candidate


def candidate_lineage(
    parent: str,
    run: str,
    rounds: int,
    cohort: Sequence[str],
    note: str = "",
    *,
    strategy: str = "",
    seed: int | None = None,
) -> Lineage:
    """Return the lineage of a candidate: its parent's manifest digest and its run."""
    return Lineage(
        parents=(parent,),
        run=run,
        rounds=rounds,
        cohort=tuple(sorted(cohort)),
        note=note,
        strategy=strategy,
        seed=seed,
    )


def _check_only_head_changed(model: bytes, candidate: bytes, head: Head) -> None:
    bare = []
    for content in (model, candidate):
        proto = _parse(content)
        for name in (head.weight, head.bias):
            _initialisers(proto)[name].Clear()
        bare.append(proto.SerializeToString(deterministic=True))
    if bare[0] != bare[1]:
        raise AdmissionError("the candidate differs from the running model outside its head")


def _parse(model: bytes) -> ModelProto:
    proto = ModelProto()
    try:
        proto.ParseFromString(model)
    except DecodeError as why:
        raise AdmissionError("the running model is not an ONNX file") from why
    return proto


def _initialisers(proto: ModelProto) -> dict[str, Any]:
    return {i.name: i for i in proto.graph.initializer}


def _float_array(found: dict[str, Any], name: str) -> NDArray[np.float32]:
    tensor = found.get(name)
    if tensor is None or tensor.data_type != TensorProto.FLOAT:
        raise AdmissionError(f"the model has no float32 initialiser {name!r}")
    array: NDArray[np.float32] = numpy_helper.to_array(tensor)
    return array
