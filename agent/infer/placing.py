"""Where a variant runs on this device: inside of the agent, or in which process beside it.

Rule 1: the variant's providers are its publisher's preference: the first one that a probe
        found decides, and of two runtimes that have it the agent's own goes first.
Rule 2: what runs in a process of its own because the slot wants it so runs with the agent's
        own Python and libraries, and answers as it does inside.
Rule 3: paths of this device come from its own configuration and state directory, never from
        a manifest.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from agent.config_runtime import RuntimeConfig
from agent.contract.manifest import Variant
from agent.contract.messages import Hosted
from agent.disk import Disk
from agent.errors import RuntimeMissingError
from agent.infer.external.engines import Engine
from agent.infer.external.supervised import Program
from agent.infer.external.worker import Outside
from agent.infer.variants import host_of

SHIPPED: Final = Path(__file__).with_name("external") / "standalone" / "onnx_worker.py"
SHIPPED_WORD: Final = "{onnx_worker}"
"""What stands for it in a configured command."""

OWN_START_SECONDS: Final = 30.0
"""For our own Python, the library and one model; a Raspberry Pi takes two or three."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnProcess:
    """A slot wants its models in a process of their own.

    Attributes:
        deadline_seconds: Of one inference.
        memory_bytes: Address space, or None.

    """

    deadline_seconds: float
    memory_bytes: int | None = None


class Placing:
    """The runtimes that the configuration names, and where what they compile is kept."""

    def __init__(self, disk: Disk, runtimes: Mapping[str, RuntimeConfig]) -> None:
        self._disk = disk
        self._runtimes = runtimes

    def outside(
        self, variant: Variant, installed: Sequence[Hosted], own: OwnProcess | None = None
    ) -> Outside | None:
        """Return the process in which a variant runs; None where that is the agent's.

        Raises:
            RuntimeMissingError: Nothing that was probed runs it.

        """
        hosted = host_of(variant, installed)
        if hosted is None:
            raise RuntimeMissingError(f"no runtime that works here runs variant {variant.name}")
        if hosted.worker:
            return self._external(variant, hosted)
        return _own(variant, hosted, own) if own else None

    def _external(self, variant: Variant, hosted: Hosted) -> Outside:
        wanted = self._configured(hosted.worker)
        options = variant.options_by_provider
        engine = Engine(
            self._disk,
            variant.model.digest,
            runtime=hosted.worker,
            version=f"{hosted.library} {hosted.version}",
            providers=variant.providers,
            options=options,
        )
        tried = outside_of(hosted.worker, wanted)
        return replace(tried, providers=variant.providers, options=options, engine=engine)

    def _configured(self, name: str) -> RuntimeConfig:
        wanted = self._runtimes.get(name)
        if wanted is None:
            raise RuntimeMissingError(f"there is no [runtime.{name}] in the configuration")
        return wanted


def outside_of(name: str, wanted: RuntimeConfig) -> Outside:
    """Return how a configured runtime is started; it is tried with just this."""
    return Outside(
        program=Program(
            name=f"runtime.{name}",
            command=tuple(
                str(SHIPPED) if word == SHIPPED_WORD else word for word in wanted.command
            ),
            environment=wanted.environment,
            memory_bytes=wanted.memory_bytes,
            nice=wanted.nice,
        ),
        runtime=wanted.runs,
        providers=wanted.providers,
        start_seconds=wanted.start_seconds,
        build_seconds=wanted.build_seconds,
        deadline_seconds=wanted.deadline_seconds,
    )


def _own(variant: Variant, hosted: Hosted, own: OwnProcess) -> Outside:
    command = (
        *(sys.executable, "-I", "-m", "agent.infer.external.own_worker"),
        *("--runtime", variant.runtime),
        *("--library", hosted.library),
    )
    return Outside(
        program=Program(
            name=f"{variant.name} in its own process",
            command=command,
            environment={"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
            memory_bytes=own.memory_bytes,
        ),
        runtime=variant.runtime,
        providers=variant.providers,
        options=variant.options_by_provider,
        start_seconds=OWN_START_SECONDS,
        deadline_seconds=own.deadline_seconds,
    )
