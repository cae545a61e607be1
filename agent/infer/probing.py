"""Which inference libraries work on this machine: found by a real inference, in a child.

That a library imports is no evidence: tflite-runtime imports beside numpy 2 and fails at its
first use, and a build for newer processors dies by SIGILL.

Rule 1: one child process tries one library, so that one that dies takes no other with it.
Rule 2: what a library can load is asked of the library, by trying.
"""

import dataclasses
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import numpy as np
from msgspec.structs import replace

from agent.config_runtime import RuntimeConfig
from agent.contract.messages import Hosted
from agent.errors import ModelError, RuntimeMissingError

LIBRARIES: Final = {
    "onnxruntime": "onnxruntime",
    "ai-edge-litert": "ai_edge_litert",
    "tflite-runtime": "tflite_runtime",
}
"""What may be installed, by the module that it brings; of one runtime the preferred first."""

_COMPILING_SECONDS: Final = 45.0


def present() -> tuple[str, ...]:
    """Return the libraries whose modules are there; whether they work is not known yet."""
    return tuple(library for library, module in LIBRARIES.items() if find_spec(module) is not None)


def probe(library: str) -> Hosted:
    """Make one real inference with a library; only in a child process, which it may kill.

    Raises:
        RuntimeMissingError: It is not installed, or does not work on this machine.

    """
    try:
        return _try(library)
    except (ImportError, AttributeError, SystemError, OSError, ModelError) as why:
        raise RuntimeMissingError(f"{library} does not work here: {why}") from why


def probe_worker(name: str, wanted: RuntimeConfig) -> Hosted:
    """Make one real inference with a configured runtime, in a process of its own.

    Raises:
        RuntimeMissingError: It does not work on this machine; the sentence says what it did.

    """
    from agent.infer.external.model import ExternalRuntime  # noqa: PLC0415 -- few devices need it
    from agent.infer.placing import outside_of  # noqa: PLC0415 -- likewise

    seconds = probe_seconds(wanted)
    tried = outside_of(name, replace(wanted, deadline_seconds=seconds))
    try:
        with TemporaryDirectory(prefix="fieldfare-") as folder:
            model = Path(folder) / "probe"
            model.write_bytes(_probe_model(wanted.runs))
            runtime = ExternalRuntime(dataclasses.replace(tried, start_seconds=seconds), model)
            try:
                (answer,) = runtime.infer(np.ones(1, np.float32))
            finally:
                runtime.close()
    except (ModelError, ValueError, RuntimeMissingError) as why:
        said = str(why).removeprefix(f"runtime.{name} ")
        told = f"it {said}" if said != str(why) else said
        raise RuntimeMissingError(f"runtime.{name} does not work here: {told}") from why
    if answer.tolist() != [-1.0]:
        raise RuntimeMissingError(f"runtime.{name} computes wrongly here")
    return Hosted(
        name=wanted.runs,
        version=runtime.version[:500],
        library=runtime.library[:500],
        providers=runtime.providers or wanted.providers,
        worker=name,
    )


def probe_seconds(wanted: RuntimeConfig) -> float:
    """Return how long a runtime may take to be ready for the smallest model, or to run it.

    A compiler compiles that one too, each time.
    """
    return wanted.start_seconds + min(wanted.build_seconds, _COMPILING_SECONDS)


def _probe_model(runs: str) -> bytes:
    if runs == "onnx":
        from agent.infer.probe_model import PROBE_MODEL  # noqa: PLC0415 -- likewise

        return PROBE_MODEL
    from agent.infer import litert  # noqa: PLC0415 -- likewise

    return litert.PROBE_MODEL


def _try(library: str) -> Hosted:
    match library:
        case "onnxruntime":
            from agent.infer import onnx  # noqa: PLC0415 -- one child imports one library

            return onnx.probe()
        case "ai-edge-litert" | "tflite-runtime":
            from agent.infer import litert  # noqa: PLC0415 -- likewise

            return litert.probe(library)
        case _:
            raise RuntimeMissingError(f"{library} is no library that this agent knows")
