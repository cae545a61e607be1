"""Where the models of each slot run, as the configuration says; see ``infer.placing``."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from agent.config import Config
from agent.config_inference import PipelineConfig
from agent.contract.manifest import Variant
from agent.contract.messages import Hosted
from agent.disk import Disk

if TYPE_CHECKING:
    from agent.infer.external.worker import Outside
    from agent.infer.placing import OwnProcess

DEADLINE_SECONDS = 10.0
"""Of a slot in a process of its own that names none."""

Placer = Callable[[str, Variant, tuple[Hosted, ...]], "Outside | None"]


def placer_of(config: Config, disk: Disk) -> Placer | None:
    """Return what says in which process a slot's variant runs; None where all run in this one."""
    if not config.runtime and not any(slot.own_process for slot in config.pipeline.values()):
        return None
    # a megabyte that few devices need
    from agent.infer.placing import OwnProcess, Placing  # noqa: PLC0415

    placing = Placing(disk, config.runtime)

    def own(wanted: PipelineConfig) -> "OwnProcess | None":
        if not wanted.own_process:
            return None
        return OwnProcess(
            deadline_seconds=wanted.deadline_seconds or DEADLINE_SECONDS,
            memory_bytes=wanted.memory_bytes,
        )

    def place(slot: str, variant: Variant, installed: tuple[Hosted, ...]) -> "Outside | None":
        return placing.outside(variant, installed, own(config.pipeline[slot]))

    return place
