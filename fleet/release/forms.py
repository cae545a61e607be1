"""The forms of one model: files for other runtimes, that answer as the first one does.

Rule 1: the first file makes the golden vectors; every other one must reproduce them before
        anything is signed, as it must on every device.
"""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from msgspec.structs import replace

from agent.contract.manifest import Artifact, State, Variant
from agent.errors import ModelError, RuntimeMissingError
from agent.infer.golden import check_golden
from agent.infer.variants import load
from fleet.errors import AdmissionError
from fleet.release.admit import Admitted


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Form:
    """A model file and how it is called in sentences; its ending tells for which runtime."""

    content: bytes
    file: str


def describe_form(admitted: Admitted, artifact: Artifact, states: tuple[State, ...]) -> Variant:
    """Return what the manifest says of a form."""
    precision = "int8" if admitted.quantised else "fp32"
    return Variant(
        name=f"{admitted.runtime}-{precision}",
        runtime=admitted.runtime,
        model=artifact,
        inputs=admitted.inputs,
        outputs=admitted.outputs,
        states=states,
    )


def require_alike(form: Form, variant: Variant, golden: bytes, tolerance: float) -> None:
    """Return if a form reproduces the golden vectors of the first one.

    Raises:
        AdmissionError: It does not, or cannot be run here; the sentence has the figures.

    """
    with tempfile.TemporaryDirectory(prefix="fieldfare-form-") as folder:
        path = Path(folder, "model")
        path.write_bytes(form.content)
        try:
            runtime = load(variant, path)
        except (ModelError, RuntimeMissingError) as why:
            raise AdmissionError(f"{form.file} cannot be tried here: {why}") from why
        try:
            finding = check_golden(runtime, golden, tolerance)
        finally:
            runtime.close()
    if not finding.held:
        raise AdmissionError(
            f"{form.file} does not answer as the first file does: {finding.why}; a difference "
            "that is meant to be is allowed by 'golden_tolerance' in the description"
        )


def named_apart(variants: Sequence[Variant]) -> tuple[Variant, ...]:
    """Return variants each under a name of its own."""
    taken: list[str] = []
    for variant in variants:
        name, number = variant.name, 2
        while name in taken:
            name, number = f"{variant.name}-{number}", number + 1
        taken.append(name)
    return tuple(replace(variant, name=name) for variant, name in zip(variants, taken, strict=True))
