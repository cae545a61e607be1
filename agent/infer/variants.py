"""Which of a release's variants this device runs, and the door to its runtime.

Rule 1: a runtime counts as installed only after a real inference on this machine; some
        builds import and then fail, or die with SIGILL. Probe in a child process.
Rule 2: the manifest's order is the publisher's preference; the first variant that fits
        the hardware and an installed runtime is taken.
Rule 3: a loaded model must have exactly the inputs and outputs that were signed.
"""

from collections.abc import Sequence
from pathlib import Path

from agent.contract.manifest import Release, Tensor, Variant
from agent.contract.messages import Hosted
from agent.errors import RuntimeMissingError, WrongTensorsError
from agent.infer.onnx_file import examine_onnx
from agent.infer.runtime import Runtime
from agent.refusals import WrongHardwareError

EXTRAS = {"onnx": "fieldfare[onnx]"}
"""What an operator installs for a runtime; a manifest may name others, of later versions."""


def choose(release: Release, hardware: str, installed: Sequence[Hosted]) -> Variant:
    """Return the variant that this device runs.

    Raises:
        MismatchError: No variant is for this hardware.
        RuntimeMissingError: Some are, but none of their runtimes is installed.

    """
    fitting = [v for v in release.variants if not v.hardware or hardware in v.hardware]
    if not fitting:
        known = sorted({name for v in release.variants for name in v.hardware})
        raise WrongHardwareError(f"{release.target} is for {', '.join(known)}; this is {hardware}")
    hosted = {runtime.name for runtime in installed}
    for variant in fitting:
        if variant.runtime in hosted:
            return variant
    raise _missing(fitting[0].runtime)


def examine(variant: Variant, path: Path) -> None:
    """Return if a model file, already verified, claims nothing that must not be loaded.

    Raises:
        ModelError: It does; the class says what.
        StoreError: It cannot be read.

    """
    if variant.runtime == "onnx":
        examine_onnx(path)


def load(variant: Variant, path: Path) -> Runtime:
    """Load a variant's model, already verified, from a file.

    Raises:
        RuntimeMissingError: Its runtime is not installed, or does not start.
        ModelError: The file is not such a model, or not the one that the manifest describes.

    """
    runtime = _open(variant, path)
    for what, signed, found in (
        ("inputs", variant.inputs, runtime.inputs),
        ("outputs", variant.outputs, runtime.outputs),
    ):
        if signed != found:
            runtime.close()
            raise WrongTensorsError(
                f"model {path.name[:16]} has {what} {_tell(found)}; "
                f"its manifest says {_tell(signed)}"
            )
    return runtime


def probe_installed() -> tuple[Hosted, ...]:
    """Return the runtimes that made a real inference just now; run it in a child process."""
    try:
        from agent.infer import onnx  # noqa: PLC0415 -- 20 MiB that only ONNX models need
    except ImportError:
        return ()
    return (Hosted(name=onnx.NAME, version=onnx.probe()),)


def _open(variant: Variant, path: Path) -> Runtime:
    if variant.runtime != "onnx":
        raise _missing(variant.runtime)
    try:
        from agent.infer import onnx  # noqa: PLC0415 -- 20 MiB that only ONNX models need
    except ImportError as why:
        raise _missing(variant.runtime) from why
    return onnx.OnnxRuntime(path, variant.providers)


def _missing(runtime: str) -> RuntimeMissingError:
    if runtime not in EXTRAS:
        return RuntimeMissingError(
            f"this version of the agent runs no {runtime} models: publish an onnx variant"
        )
    return RuntimeMissingError(
        f"no runtime for {runtime} models works here: install {EXTRAS[runtime]}"
    )


def _tell(tensors: Sequence[Tensor]) -> str:
    return ", ".join(f"{t.name} {t.dtype}{list(t.shape)}" for t in tensors)
