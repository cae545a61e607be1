"""Which inference libraries work on this machine: found by a real inference, in a child.

That a library imports is no evidence: tflite-runtime imports beside numpy 2 and fails at its
first use, and a build for newer processors dies by SIGILL.

Rule 1: one child process tries one library, so that one that dies takes no other with it.
Rule 2: what a library can load is asked of the library, by trying.
"""

from importlib.util import find_spec
from typing import Final

from agent.contract.messages import Hosted
from agent.errors import ModelError, RuntimeMissingError

LIBRARIES: Final = {
    "onnxruntime": "onnxruntime",
    "ai-edge-litert": "ai_edge_litert",
    "tflite-runtime": "tflite_runtime",
}
"""What may be installed, by the module that it brings; of one runtime the preferred first."""


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
