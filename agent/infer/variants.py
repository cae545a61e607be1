"""Which of a release's variants this device runs, and the door to its runtime.

Rule 1: a runtime counts as installed only after a real inference on this machine, see
        ``probing``; what was probed is loaded, and no other library.
Rule 2: the manifest's order is the publisher's preference; the first variant that fits
        the hardware and an installed runtime is taken.
Rule 3: a loaded model must have exactly the inputs and outputs that were signed.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from agent.contract.manifest import Release, Tensor, Variant
from agent.contract.messages import Hosted
from agent.errors import RuntimeMissingError, WrongTensorsError
from agent.infer.runtime import Runtime
from agent.infer.stateful import Stateful
from agent.refusals import WrongHardwareError

if TYPE_CHECKING:
    from agent.infer.external.worker import Outside

EXTRAS = {"onnx": "fieldfare[onnx]", "tflite": "fieldfare[litert]"}
"""What an operator installs for a runtime; a manifest may name others, of later versions."""


Options = Mapping[str, Mapping[str, str]]
NO_OPTIONS: Final[Options] = MappingProxyType({})


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
    for variant in fitting:
        if host_of(variant, installed) is not None:
            return variant
    first = fitting[0]
    for hosted in installed:
        if hosted.name == first.runtime:
            raise RuntimeMissingError(
                f"{release.target} wants {', '.join(first.providers)}; this "
                f"{hosted.library} has {', '.join(hosted.providers)}"
            )
    raise _missing(first.runtime)


def host_of(variant: Variant, installed: Sequence[Hosted]) -> Hosted | None:
    """Return the runtime that is to run a variant; None where none can.

    The first of the variant's providers that a runtime has decides, and of two that have it
    the agent's own goes first. A runtime that tells of no providers has whatever is wanted.
    """
    able = [hosted for hosted in installed if hosted.name == variant.runtime]
    able.sort(key=lambda hosted: hosted.worker != "")
    for provider in variant.providers:
        for hosted in able:
            if not hosted.providers or provider in hosted.providers:
                return hosted
    return None


def examine(variant: Variant, path: Path) -> None:
    """Return if a model file, already verified, claims nothing that must not be loaded.

    Raises:
        ModelError: It does; the class says what.
        StoreError: It cannot be read.

    """
    match variant.runtime:  # only children and publishers examine
        case "onnx":
            from agent.infer.onnx_file import examine_onnx  # noqa: PLC0415

            examine_onnx(path)
        case "tflite":
            from agent.infer.tflite_file import examine_tflite  # noqa: PLC0415

            examine_tflite(path)


def load(
    variant: Variant,
    path: Path,
    installed: Sequence[Hosted] = (),
    *,
    outside: "Outside | None" = None,
    died: Callable[[str], object] | None = None,
    waiting: Callable[[], object] | None = None,
) -> Runtime:
    """Load a variant's model, already verified, from a file.

    Args:
        variant: What the manifest says of it.
        path: The file.
        installed: What a probe found: nothing else is loaded, as it may kill this process.
            Without it, as on a publisher's machine, whatever imports is taken.
        outside: The process of its own in which it is to run, see ``placing``.
        died: Is told, from another thread, why that process ended.
        waiting: Is called about once a second until that process is ready.

    Raises:
        RuntimeMissingError: Its runtime is not installed, or does not start.
        ModelError: The file is not such a model, or not the one that the manifest describes.
        StoreError: There is no place for what is compiled.

    """
    if outside is None:
        runtime = _open(variant, path, installed)
    else:
        from agent.infer.external.model import ExternalRuntime  # noqa: PLC0415 -- few devices need it

        runtime = ExternalRuntime(outside, path, died, waiting)
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
    if not variant.states:
        return runtime
    try:
        return Stateful(runtime, variant.states)
    except WrongTensorsError:
        runtime.close()
        raise


def open_model(
    runtime: str,
    path: Path,
    providers: Sequence[str],
    library: str | None = None,
    options: Options = NO_OPTIONS,
) -> Runtime:
    """Load a model of which nothing is known yet but its runtime.

    ``options`` are those of each provider.

    Raises:
        RuntimeMissingError: Its runtime is not installed, or does not start.
        ModelError: The file is not such a model.

    """
    match runtime:
        case "onnx":
            try:
                from agent.infer import onnx  # noqa: PLC0415 -- 20 MiB that only its models need
            except ImportError as why:
                raise _missing(runtime) from why
            return onnx.OnnxRuntime(path, providers, options)
        case "tflite":
            from agent.infer import litert  # noqa: PLC0415 -- likewise

            return litert.LiteRtRuntime(path, library)
        case _:
            raise _missing(runtime)


def _open(variant: Variant, path: Path, installed: Sequence[Hosted]) -> Runtime:
    own = (hosted for hosted in installed if not hosted.worker)
    libraries = [hosted.library for hosted in own if hosted.name == variant.runtime]
    if installed and not libraries:
        raise _missing(variant.runtime)
    library = next(filter(None, libraries), None)
    options = variant.options_by_provider
    return open_model(variant.runtime, path, variant.providers, library, options)


def _missing(runtime: str) -> RuntimeMissingError:
    if runtime not in EXTRAS:
        return RuntimeMissingError(
            f"this version of the agent runs no {runtime} models: publish an onnx or tflite variant"
        )
    return RuntimeMissingError(
        f"no runtime for {runtime} models works here: install {EXTRAS[runtime]}"
    )


def _tell(tensors: Sequence[Tensor]) -> str:
    return ", ".join(f"{t.name} {t.dtype}{list(t.shape)}" for t in tensors)
