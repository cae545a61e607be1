"""What ``fieldfare-agent status`` shows: read from the state directory, without its lock.

Rule 1: nothing is changed; an agent that runs meanwhile is not disturbed.
Rule 2: the same values for people and, as JSON, for programs. Never a key or a password.
"""

import fcntl
import time
from collections.abc import Iterable
from contextlib import suppress
from datetime import date, timedelta
from pathlib import Path

from msgspec import Struct, field
from msgspec.structs import replace

from agent.contract.health_lines import health_lines
from agent.contract.messages import SlotReport
from agent.contract.telemetry import Health
from agent.daemon import spool
from agent.daemon.accepted import ACCEPTED, AcceptedAssignment
from agent.daemon.health import read_health
from agent.daemon.moments import awake_seconds
from agent.daemon.state import describe_slot
from agent.disk import Disk, read_versioned
from agent.errors import AgentError, ConfigError, NewerStateError, StoreError
from agent.identity.clock import TrustedClock
from agent.identity.device_key import BOOT, BootFile, find_key
from agent.identity.enrol import load_credentials
from agent.identity.home import at_home
from agent.link.budget import BUDGET, BudgetFile
from agent.link.ledger import Totals, read_totals
from agent.update import journal, trust
from agent.update.store import Store


class OutboxStatus(Struct, frozen=True, kw_only=True):
    """Reports over the life of the state directory."""

    appended: int
    acknowledged: int
    dropped: int
    pending: int
    size_bytes: int


class AcceptedOrder(Struct, frozen=True, kw_only=True):
    """The newest assignment that was believed."""

    director_epoch: int
    sequence: int
    expires_ms: int


class BudgetStatus(Struct, frozen=True, kw_only=True):
    """What artifacts cost on one class of links, on the day ``day`` (since 1970, UTC)."""

    day: int
    spent: int
    limit: int


class Status(Struct, frozen=True, kw_only=True):
    """One device, as its state directory has it.

    Attributes:
        releases: Family and version by manifest digest, where the store holds the manifest.
        running: Whether an agent holds the directory now.
        boots: How many lives it has begun.
        slots: What each slot runs.
        budget: What artifacts cost on each class of links that has a limit a day.
        trusted_floor_ms: A moment that has certainly passed, ms since 1970.
        now_ms: The best time there is without asking the fleet.
        bundles: What became of the last update bundles, by number, and which wait or are
            being applied.
        machine: How this machine is now, without what takes two readings or the agent to tell.

    """

    state_dir: str
    device: str | None
    fleet: str | None
    broker_url: str | None
    running: bool
    boots: int
    root_version: int | None
    slots: dict[str, SlotReport]
    releases: dict[str, str]
    outbox: OutboxStatus
    accepted: AcceptedOrder | None
    budget: dict[str, BudgetStatus] = {}
    trusted_floor_ms: int
    now_ms: int
    bundles: dict[str, str] = field(default_factory=dict)
    machine: Health | None = None


def read_status(state_dir: Path) -> Status:
    """Read a state directory.

    Raises:
        ConfigError: There is none.
        NewerStateError: Something in it was written by a newer version.
        StoreError: Something in it cannot be read.

    """
    if not state_dir.is_dir():
        raise ConfigError(f"{state_dir} is no state directory of an agent")
    disk = Disk(state_dir)
    key = find_key(disk)
    credentials = at_home(disk, load_credentials(disk))
    trusted = trust.load(disk)
    boot = read_versioned(disk, BOOT, BootFile)
    newest = read_versioned(disk, ACCEPTED, AcceptedAssignment)
    clock = TrustedClock(disk, awake_seconds, time.time)
    running = is_locked(state_dir / "lock")
    slots = {slot: describe_slot(journal.load(disk, slot)) for slot in journal.slots(disk)}
    return Status(
        state_dir=str(state_dir),
        device=key.device if key else None,
        fleet=credentials.fleet if credentials else None,
        broker_url=credentials.broker_url if credentials else None,
        running=running,
        boots=boot.counter if boot else 0,
        root_version=trusted.root_version if trusted else None,
        slots=slots,
        releases=_names(Store(disk), slots.values()),
        outbox=_outbox(read_totals(disk)),
        accepted=_order(newest),
        budget=_budget(disk),
        trusted_floor_ms=clock.floor_ms,
        now_ms=clock.now_ms(),
        bundles=_bundles(disk, running=running),
        machine=replace(read_health(Path("/"), state_dir), disk_written_bytes=None),
    )


def describe(status: Status) -> str:
    """Return the status for a person."""
    lines = [
        f"device     {status.device or 'no key yet'}",
        f"fleet      {status.fleet or 'not enrolled'}",
        f"broker     {status.broker_url or '-'}",
        f"agent      {'running' if status.running else 'not running'}, boot {status.boots}",
    ]
    if status.accepted is not None:
        order = status.accepted
        lines.append(f"assignment {order.sequence} of director epoch {order.director_epoch}")
    for slot, report in status.slots.items():
        running = _named(status, report.current) if report.current else "nothing"
        trying = f", trying {_named(status, report.candidate)}" if report.candidate else ""
        lines.append(f"slot       {slot}: {running} ({report.phase}{trying})")
    outbox = status.outbox
    lines.append(
        f"reports    {outbox.appended} made, {outbox.acknowledged} acknowledged,"
        f" {outbox.pending} waiting, {outbox.dropped} dropped"
    )
    lines += [f"bundle     {number}: {why}" for number, why in status.bundles.items()]
    lines += [
        f"budget     {name}: {one.spent} of {one.limit} bytes on {_date(one.day)}"
        for name, one in status.budget.items()
    ]
    if status.machine is not None:
        lines += [f"{heading:<10} {text}" for heading, text in health_lines(status.machine)]
    return "\n".join(lines)


def _bundles(disk: Disk, *, running: bool) -> dict[str, str]:
    """Return what is to be said about the last bundles, in a few words each."""
    waits = "is being applied" if running else "is applied when the agent starts"
    found = {number: f"[{o.code}] {o.why}" if o.code else o.why for number, o in spool.told(disk)}
    return dict(sorted({**found, **dict.fromkeys(spool.waiting(disk), waits)}.items()))


def _date(day: int) -> str:
    return (date(1970, 1, 1) + timedelta(days=min(day, 2_900_000))).isoformat()


def _named(status: Status, digest: str) -> str:
    name = status.releases.get(digest)
    return f"{name} {digest[:16]}" if name else digest[:16]


def _names(store: Store, slots: Iterable[SlotReport]) -> dict[str, str]:
    names: dict[str, str] = {}
    for report in slots:
        for digest in (report.current, report.candidate, report.last_good):
            if digest is not None and digest not in names:
                with suppress(AgentError):  # not there yet, or rotten: the digest must do
                    release = store.read_manifest(digest)
                    names[digest] = f"{release.family} {release.version}"
    return names


def _outbox(totals: Totals) -> OutboxStatus:
    return OutboxStatus(
        appended=totals.appended,
        acknowledged=totals.acknowledged,
        dropped=totals.dropped,
        pending=totals.pending,
        size_bytes=totals.size_bytes,
    )


def _budget(disk: Disk) -> dict[str, BudgetStatus]:
    try:
        file = read_versioned(disk, BUDGET, BudgetFile)
    except NewerStateError:
        raise
    except StoreError:  # the agent takes it for spent until the next day
        return {}
    if file is None:
        return {}
    return {
        name: BudgetStatus(day=file.day, spent=one.spent, limit=one.limit)
        for name, one in file.classes.items()
    }


def _order(newest: AcceptedAssignment | None) -> AcceptedOrder | None:
    if newest is None:
        return None
    return AcceptedOrder(
        director_epoch=newest.accepted.director_epoch,
        sequence=newest.accepted.sequence,
        expires_ms=newest.expires_ms,
    )


def is_locked(path: Path) -> bool:
    """Return whether an agent holds this lock file; one that is not there is not held."""
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False
