"""What may become a release: checks of the file's format, without running it.

Rule 1: nothing of the file is executed here; golden vectors run it afterwards.
Rule 2: each refusal is one sentence that names what was found and what is allowed.
"""

from dataclasses import dataclass

from agent.contract.manifest import Tensor

MAX_MODEL_BYTES = 512 * 1024 * 1024
OPSETS = range(13, 24)


@dataclass(frozen=True, slots=True, kw_only=True)
class Admitted:
    """An ONNX file that passed, with what its manifest will say.

    Attributes:
        content: The bytes as they were given.
        opset: Version of the default operator set.
        inputs, outputs: In the file's order; free dimensions are -1.
        initialisers: float32 initialisers by name, with their shapes.
        quantised: Whether QuantizeLinear nodes are in it.

    """

    content: bytes
    opset: int
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    initialisers: dict[str, tuple[int, ...]]
    quantised: bool


def admit_onnx(content: bytes, *, name: str = "model.onnx") -> Admitted:
    """Check the bytes of an ONNX file.

    Raises:
        AdmissionError: With the sentence; ``name`` is how the file is called in it.

    """
    raise NotImplementedError
