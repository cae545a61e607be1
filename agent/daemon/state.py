"""What this device says about itself as retained state: inventory and reported slots.

Rule 1: a revision grows with every change within a life; equal content keeps its number.
Rule 2: content that was handed to the connection is not sent again, unless all is anew.
"""

from collections.abc import Callable, Mapping
from typing import TypeVar

from msgspec.structs import replace

from agent.config import LearnConfig
from agent.contract.endpoints import EndpointReport
from agent.contract.messages import AppEnvironment, Assigned, Inventory, Reported, SlotReport
from agent.daemon.accepted import AcceptedAssignment
from agent.daemon.host import AGENT_VERSION
from agent.learn.offer import Conditions
from agent.learn.samples import Split
from agent.observe.resources import Machine
from agent.update.slot import Idle, State
from agent.worker.jobs import ProbeAnswer

S = TypeVar("S", Inventory, Reported)


class StateTeller:
    """Revisions, and what was sent last."""

    def __init__(
        self, send: Callable[[Inventory | Reported], bool], wall_ms: Callable[[], int]
    ) -> None:
        self._send = send
        self._wall_ms = wall_ms
        self._known: dict[str, Inventory | Reported] = {}
        self._revisions: dict[str, int] = {}
        self._sent: set[str] = set()

    def forget(self) -> None:
        """Send everything again at the next ``tell``."""
        self._sent.clear()

    def tell(self, message: S) -> None:
        """Send a message, given without revision and time, where it is news."""
        kind = type(message).__name__
        if self._known.get(kind) != message:
            self._known[kind] = message
            self._revisions[kind] = self._revisions.get(kind, 0) + 1
            self._sent.discard(kind)
        if kind in self._sent:
            return
        if self._send(replace(message, rev=self._revisions[kind], ts=self._wall_ms())):
            self._sent.add(kind)


def describe_slot(state: State) -> SlotReport:
    """Return what a slot really runs, as it is reported."""
    return SlotReport(
        current=_digest(state.current),
        candidate=_digest(state.candidate),
        last_good=_digest(state.last_good),
        phase=state.phase_name,
        denied=state.denied,
    )


def _digest(assigned: Assigned | None) -> str | None:
    return assigned.digest if assigned else None


def inventory_of(
    learn: LearnConfig,
    machine: Machine,
    probed: ProbeAnswer,
    *,
    slots: tuple[str, ...],
    environments: tuple[AppEnvironment, ...] = (),
) -> Inventory:
    """Return what this device is and can do, without revision and time."""
    return Inventory(
        rev=0,
        ts=0,
        hardware=machine.hardware,
        arch=machine.arch,
        system=machine.system,
        python=machine.python,
        agent=AGENT_VERSION,
        memory_bytes=machine.memory_bytes,
        runtimes=probed.runtimes,
        slots=slots,
        trains=learn.train and probed.train > 0,
        evaluates=learn.evaluate and probed.decide > 0,
        labelled_windows=probed.train + probed.decide + probed.withheld,
        cpu_flags=machine.cpu_flags,
        apps=learn.apps,
        environments=environments,
        shares=True,
    )


def with_kept(probed: ProbeAnswer | None, kept: Mapping[Split, int]) -> ProbeAnswer | None:
    """Return what the probe counted, and the windows that people labelled by now."""
    if probed is None:
        return None
    return replace(
        probed,
        train=probed.train + kept[Split.TRAIN],
        decide=probed.decide + kept[Split.DECIDE],
        withheld=probed.withheld + kept[Split.WITHHELD],
    )


def reported_of(
    newest: AcceptedAssignment | None,
    slots: dict[str, SlotReport],
    *,
    versions: dict[str, int],
    endpoint: EndpointReport,
    acknowledged: dict[str, int],
) -> Reported:
    """Return the device's side of the desired state, without revision and time."""
    return Reported(
        rev=0,
        ts=0,
        director_epoch=newest.accepted.director_epoch if newest else 0,
        sequence=newest.accepted.sequence if newest else 0,
        slots=slots,
        versions=versions,
        endpoint=endpoint,
        acknowledged=acknowledged,
    )


def conditions_of(
    learn: LearnConfig,
    *,
    device: str,
    probed: ProbeAnswer | None,
    slot: State | None,
    busy_with: str | None,
    hot: str,
    lacking: Mapping[str, str],
    unfetched: Mapping[str, str],
) -> Conditions:
    """Return what the decision on an offer needs to know; ``slot`` has the labelled windows."""
    pointers = (slot.current, slot.last_good) if slot else ()
    return Conditions(
        device=device,
        trains=learn.train,
        evaluates=learn.evaluate,
        train_windows=probed.train if probed else 0,
        decide_windows=probed.decide if probed else 0,
        backbones=frozenset(p.digest for p in pointers if p is not None),
        updating=slot is not None and not isinstance(slot.phase, Idle),
        busy_with=busy_with,
        hot=hot,
        unready="" if probed else "its runtimes and labelled windows are not counted yet",
        apps=learn.apps,
        lacking=lacking,
        unfetched=unfetched,
    )
