"""From an admitted file to a manifest and its artifacts, ready to be signed."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from agent.contract.manifest import Head, Lineage, Release, Windowing


@dataclass(frozen=True, slots=True, kw_only=True)
class BuiltRelease:
    """A release before it is signed.

    Attributes:
        release: The manifest as a value.
        manifest: Its bytes, the TUF target.
        digest: SHA-256 of ``manifest``, hex.
        artifacts: Bytes by SHA-256: the model and the golden vectors.

    """

    release: Release
    manifest: bytes
    digest: str
    artifacts: dict[str, bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """What the publisher says about a release.

    Attributes:
        family, version, slot, counter: As in ``manifest.Release``.
        windowing, classes, probabilities, head: As in ``manifest.Release``; ``head`` is
            only named when the model has it (see ``find_head``).
        rollback_to: Manifest digests that devices may return to from it.

    """

    family: str
    version: str
    slot: str
    counter: int
    windowing: Windowing | None = None
    classes: tuple[str, ...] = ()
    probabilities: str | None = None
    head: Head | None = None
    lineage: Lineage = Lineage()
    rollback_to: tuple[str, ...] = ()


def find_head(model: bytes) -> Head | None:
    """Return the trainable head by convention, or None.

    The convention: an output ``embedding`` of shape (1, width) and float32 initialisers
    ``head.weight`` (classes, width) and ``head.bias`` (classes,).

    Raises:
        AdmissionError: The file is not admissible.

    """
    raise NotImplementedError


def build_release(
    model: bytes,
    placement: Placement,
    *,
    golden_inputs: tuple[NDArray[np.float32], ...] | None,
    metrics: dict[str, float],
    now_ms: int,
) -> BuiltRelease:
    """Admit a model, make its golden vectors and write its manifest.

    Args:
        model: ONNX bytes.
        placement: Its name and what belongs to it.
        golden_inputs: Inputs of the model's shape; None takes seeded ones.
        metrics: What its makers measured.
        now_ms: Wall clock, ms since 1970.

    Raises:
        AdmissionError: The file cannot become a release.

    """
    raise NotImplementedError
