"""What the operator may choose about programs that run models beside the agent.

The sections stand in the one configuration file, and its rules are those of ``config``.
"""

from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta, Struct, field

from agent.config_inference import Seconds

Word = Annotated[str, Meta(min_length=1, max_length=1000, pattern=r"^[^\x00]+$")]
Provider = Annotated[str, Meta(pattern=r"^[A-Za-z][A-Za-z0-9_]{0,79}$")]
Variable = Annotated[str, Meta(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,99}$")]


class RuntimeConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[runtime.<name>]``: a vendor's runtime, in a process of its own under its own Python.

    The program is one that keeps to docs/external-runtimes.md. It is tried with a real
    inference when the agent starts; a variant whose first provider only it has is run by it.

    Attributes:
        command: Program and first arguments; the agent adds its own. ``{onnx_worker}`` is the
            worker that comes with the agent.
        runs: Which variants it runs: ``onnx`` or ``tflite``.
        providers: Execution providers that it is tried with, in order of preference.
        start_seconds: Until it is ready; the agent waits for it, and below its watchdog.
        build_seconds: The same, and of the first inference, where a model is compiled for
            this device for the first time.
        deadline_seconds: Of one inference; then it is killed and started again.
        memory_bytes: Its address space. Unset, only the unit's limit holds for both; CUDA
            reserves far more than it uses.
        nice: Added to the agent's niceness.
        environment: Added to the little that it gets.

    """

    command: Annotated[tuple[Word, ...], Meta(min_length=1, max_length=64)]
    runs: Literal["onnx", "tflite"] = "onnx"
    providers: Annotated[tuple[Provider, ...], Meta(min_length=1, max_length=16)] = (
        "CPUExecutionProvider",
    )
    start_seconds: Annotated[float, Meta(gt=0, le=50)] = 30.0
    build_seconds: Seconds = 1800.0
    deadline_seconds: Annotated[float, Meta(gt=0, le=3600)] = 10.0
    memory_bytes: Annotated[int, Meta(ge=16_777_216, le=2**50)] | None = None
    nice: Annotated[int, Meta(ge=0, le=19)] = 0
    environment: Annotated[dict[Variable, str], Meta(max_length=64)] = field(default_factory=dict)


class EnvironmentConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[learn.environment.<name>]``: a Python that signed apps may run under.

    It needs numpy, and is of version 3.10 or later. Nothing is ever installed into it. An
    app runs under the first environment that has all it declares: the agent's own Python,
    called ``agent``, then these by name.

    Attributes:
        python: Its program.
        flwr: Whether its own flwr is used, where it is installed; else the light stand-in.

    """

    python: Path
    flwr: bool = True
