"""What a use case may touch, owned by one thread: the manager's.

Rule 1: only the thread that runs ``loop`` opens transactions, signs or publishes; every
        other thread asks through ``Ask`` and waits.
Rule 2: a use case puts what must be published on ``outgoing``; the loop publishes it
        after the transaction. Nothing on it is irreplaceable: what must arrive is
        desired state, which is published again at every connect, or is asked for again.
"""

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from nacl.signing import VerifyKey

from agent.contract.enrolment import EnrolRequest
from agent.contract.rounds import TaskAnswer
from agent.contract.telemetry import Prediction
from agent.contract.topics import Address, Topics
from fleet.config import FleetConfig
from fleet.ingest.client_authority import ClientAuthority
from fleet.ingest.mosquitto import find_client_authority
from fleet.ingest.round_records import RoundRecords
from fleet.ingest.uploads import Uploads
from fleet.registry.artifacts import Artifacts
from fleet.registry.room import MEGABYTE
from fleet.registry.sqlite import Registry, open_registry
from fleet.rounds.conduct import Conductor
from fleet.service.turnstile import Turnstile
from fleet.signing.ceremony import Ring, choose_online, load_ring
from fleet.signing.published import read_published
from fleet.signing.repository import OnlineKeys, Repository

R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A payload that waits to be published."""

    address: Address
    payload: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """Broker credentials that a device is to get, and where its reply goes."""

    device: str
    request: EnrolRequest


@dataclass(frozen=True, slots=True)
class Withdrawal:
    """Broker credentials that are to be taken away at once."""

    device: str


Errand = Grant | Withdrawal
"""Work for the provisioner, which has a connection and a thread of its own."""


@dataclass(slots=True, kw_only=True)
class Desk:
    """The manager's state and collaborators.

    Attributes:
        config: The manager's settings.
        registry, artifacts, repository: What it remembers and has promised.
        keys: Its online keys, as root and authority name them now.
        open_ring: Opens every online key file, for when they name others.
        topics: The fleet's topic tree.
        now_ms: Wall clock, ms since 1970.
        epoch: Grows with each start of the manager; part of its presence.
        outgoing: Waits to be published.
        errands: Waits for the provisioner.
        conductors: Running federated runs by id.
        records, uploads: Large arrays of rounds, on their way down and up.
        device_keys: Public keys of enrolled devices that were heard since the start.
        heard: Called from any thread with what a run's child said.
        connected: Whether the broker is there.
        predicted: Takes what a device predicted, where somebody wants to know.
        bridge: How the bridge to Home Assistant does; "" without one.
        clients: The authority for client certificates, where the fleet has one.
        strangers, joining, reading, certifying, resuming: How often anybody is told why it may
            not join, a device is answered about joining, is sent metadata, is given a
            certificate, and is followed to versions above our own.
        offering: How fast tasks of rounds are offered.
        telling: How many bytes of what a device says are recorded.

    """

    config: FleetConfig
    registry: Registry
    artifacts: Artifacts
    repository: Repository
    keys: OnlineKeys
    topics: Topics
    now_ms: Callable[[], int]
    epoch: int
    heard: Callable[[str, object], None]
    open_ring: Callable[[], Ring]
    records: RoundRecords
    uploads: Uploads
    outgoing: deque[Outgoing] = field(default_factory=deque)
    errands: deque[Errand] = field(default_factory=deque)
    conductors: dict[str, Conductor] = field(default_factory=dict)
    device_keys: dict[str, VerifyKey] = field(default_factory=dict)
    connected: bool = False
    predicted: Callable[[str, Prediction], None] | None = None
    bridge: Callable[[], str] = str
    strangers: Turnstile = field(default_factory=lambda: Turnstile(at_once=50, per_second=10))
    joining: Turnstile = field(default_factory=lambda: Turnstile(at_once=10, per_second=0.5))
    reading: Turnstile = field(default_factory=lambda: Turnstile(at_once=20, per_second=1))
    certifying: Turnstile = field(default_factory=lambda: Turnstile(at_once=4, per_second=0.01))
    telling: Turnstile = field(
        default_factory=lambda: Turnstile(at_once=64 * 1024 * 1024, per_second=8 * 1024)
    )
    resuming: Turnstile = field(default_factory=lambda: Turnstile(at_once=3, per_second=1 / 600))
    offering: Turnstile = field(default_factory=lambda: Turnstile(at_once=200, per_second=200))
    clients: ClientAuthority | None = None

    def send(self, address: Address, payload: bytes) -> None:
        """Have something published after the transaction."""
        self.outgoing.append(Outgoing(address, payload))


class Ask(Protocol):
    """Runs a use case on the manager's thread and returns its result or raises its error."""

    def __call__(self, use_case: Callable[[Desk], R], /) -> R:
        """Return what the use case returned."""


def wall_clock_ms() -> int:
    """Return the time, ms since 1970."""
    return int(time.time() * 1000)


def open_desk(config: FleetConfig, passphrase: str, heard: Callable[[str, object], None]) -> Desk:
    """Open a manager's home.

    Raises:
        ConfigError, SigningError, RegistryError: It is not in order.

    """
    published = read_published(config.repository)

    def open_ring() -> Ring:
        return load_ring(config.keys, passphrase, dev=config.dev)

    keys = choose_online(open_ring(), published.root, published.authority)
    registry = open_registry(config.registry, create=False)
    pace = config.offers_per_second
    reserve_bytes = config.retention.reserve_mb * MEGABYTE
    conductors: dict[str, Conductor] = {}

    def wanted(device: str, answer: TaskAnswer) -> bool:
        conductor = conductors.get(answer.run)
        send = conductor.state.find(answer.task) if conductor else None
        asked = send is not None and send.by_name[answer.task].device == device
        return asked and send is not None and send.is_open(answer.task)

    return Desk(
        config=config,
        registry=registry,
        artifacts=Artifacts(config.artifacts, reserve_bytes=reserve_bytes),
        records=RoundRecords(config.rounds / "records", reserve_bytes=reserve_bytes),
        uploads=Uploads(config.rounds / "uploads", wanted, reserve_bytes=reserve_bytes),
        conductors=conductors,
        repository=Repository(config.repository, snapshot=keys.snapshot, timestamp=keys.timestamp),
        keys=keys,
        topics=Topics(fleet=config.fleet, prefix=config.prefix),
        now_ms=wall_clock_ms,
        epoch=_begin(registry, config.manager),
        heard=heard,
        open_ring=open_ring,
        offering=Turnstile(at_once=pace, per_second=pace),
        clients=find_client_authority(config.broker_folder),
    )


def _begin(registry: Registry, manager: str) -> int:
    """Record a start and return its epoch: another one also where the registry is a copy."""
    now_ms = wall_clock_ms()
    return max(now_ms, registry.events.record("manager.started", manager, {}, at_ms=now_ms))
