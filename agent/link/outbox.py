"""Reports that must not be lost: a durable spool until the fleet has acknowledged them."""

from collections.abc import Callable
from dataclasses import dataclass

from agent.contract.envelope import Boot, Stamp
from agent.contract.topics import Address, Channel
from agent.disk import Disk

Sign = Callable[[str, Boot, int, bytes], bytes]
"""Returns the 64-byte signature for (logical topic, boot, sequence, payload)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One signed report as it will be sent, however often."""

    address: Address
    payload: bytes
    stamp: Stamp


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """Counts over the life of the state directory: appended = acknowledged + dropped + pending."""

    appended: int
    acknowledged: int
    dropped: int
    pending: int
    size_bytes: int


class Outbox:
    """The spool of one agent; used by one thread."""

    def __init__(
        self,
        disk: Disk,
        *,
        device: str,
        boot: Boot,
        sign: Sign,
        moment: Callable[[], tuple[int, int]],
        quota_bytes: int = 16 * 1024 * 1024,
        resend_seconds: float = 30.0,
    ) -> None:
        """Load what earlier boots left; ``moment`` returns (wall ms, monotonic ms).

        Raises:
            NewerStateError: The spool was written by a newer version; left untouched.
            StoreError: The disk refused.

        """
        raise NotImplementedError

    def append(self, channel: Channel, name: str | None, payload: bytes) -> Record:
        """Number, sign and store one report; it is on the medium when this returns.

        Raises:
            DiskFullError: No space; nothing was stored and no number was used.
            StoreError: The disk refused; as above.

        """
        raise NotImplementedError

    def pending(self, *, limit_bytes: int) -> tuple[Record, ...]:
        """Return the oldest unacknowledged reports, in order, up to a size."""
        raise NotImplementedError

    def due(self, now_seconds: float, *, limit_bytes: int = 256 * 1024) -> tuple[Record, ...]:
        """Return the reports to send now: never sent, or unacknowledged for too long."""
        raise NotImplementedError

    def sent(self, record: Record, now_seconds: float) -> None:
        """Remember that a report is on its way."""
        raise NotImplementedError

    def next_due(self, now_seconds: float) -> float | None:
        """Return the seconds until ``due`` has something to send; None when nothing waits."""
        raise NotImplementedError

    def reconnected(self) -> None:
        """Forget what was on its way: the connection that carried it is gone."""
        raise NotImplementedError

    def acknowledge(self, boot: Boot, sequence: int) -> int:
        """Everything of ``boot`` up to ``sequence`` is safe; return how many that settled."""
        raise NotImplementedError

    def flush(self) -> None:
        """Persist acknowledgements that so far are only remembered."""
        raise NotImplementedError

    def totals(self) -> Totals:
        """Return the counts."""
        raise NotImplementedError


def read_totals(disk: Disk) -> Totals:
    """Return the counts of a spool that another process may own; changes nothing."""
    raise NotImplementedError
