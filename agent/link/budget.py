"""What artifacts may cost on a link: bytes of a day, kept durably, and bytes per second.

Rule 1: what is about to be asked for is noted on the medium before it is asked for, in
        blocks: a power cut may count some bytes twice, and never forgets one.
Rule 2: a day is one of *signed* time. A clock that was set forward and back renews
        nothing, and neither does a restart.
Rule 3: what came is counted, whoever asked for it and however often it came.
Rule 4: which class a link is of is looked up while bytes flow: a device may change links.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from math import inf
from typing import Final

from msgspec import Struct, field

from agent.config import BudgetConfig
from agent.contract.codec import Versioned, encode
from agent.contract.limits import CHUNK_BYTES
from agent.contract.messages import ChunkRequest, Count
from agent.disk import Disk, read_versioned
from agent.errors import BudgetSpentError, NewerStateError, StoreError
from agent.link.fetch import Fetch

log = logging.getLogger("agent.link")

BUDGET: Final = "budget.json"
BLOCK_BYTES: Final = 1024 * 1024
BLOCKS_PER_DAY: Final = 16
"""Of a small budget a block is so large a part, so that a power cut does not use it up."""
LOOK_SECONDS: Final = 1.0
DAY_MS: Final = 86_400_000


class Spent(Struct, frozen=True, kw_only=True):
    """One class: what its artifacts cost at most so far, and what they may."""

    spent: Count
    limit: Count


class BudgetFile(Versioned, frozen=True, kw_only=True):
    """``budget.json``: the day, as days since 1970, and what was spent on it."""

    day: Count
    classes: dict[str, Spent] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Link:
    name: str
    interface: str
    limits: BudgetConfig


class Budget:
    """What may be asked for now; time is monotonic seconds, days come from ``signed_ms``.

    Args:
        disk: Where ``budget.json`` lies.
        classes: By name, in the order in which they are tried.
        interface: Returns the interface of the default route, or None.
        signed_ms: Returns signed time, ms since 1970; what was signed last, while no answer
            came in this life.

    Raises:
        NewerStateError: A newer agent wrote the file; it is left untouched.

    """

    def __init__(
        self,
        disk: Disk,
        classes: Mapping[str, BudgetConfig],
        *,
        interface: Callable[[], str | None],
        signed_ms: Callable[[], int],
    ) -> None:
        self._disk = disk
        self._classes = dict(classes)
        self._interface = interface
        self._signed_ms = signed_ms
        self._link: _Link | None = None
        self._looked = -inf
        self._tokens: dict[str, tuple[float, float]] = {}
        self._day, noted = self._read() if classes else (0, {})
        self._noted: dict[str, int] = dict(noted)
        self._spent: dict[str, int] = dict(noted)

    def requests(self, fetch: Fetch, now: float) -> tuple[tuple[ChunkRequest, ...], float]:
        """Return what a transfer may ask for now, already noted, and the seconds until the next.

        Raises:
            BudgetSpentError: Nothing may be asked for today; the transfer is told to rest.
            DiskFullError, StoreError: It cannot be noted, and must not be asked for.

        """
        if not self._classes:
            return fetch.requests(now), fetch.wait_seconds(now)
        try:
            most = self.may_ask(fetch.outstanding_bytes, now)
        except BudgetSpentError:
            fetch.rest(now)
            raise
        requests = fetch.requests(now, most_bytes=most)
        new = sum(count for request in requests for _, count in request.r) * fetch.chunk_size
        if new:
            self.asked(new, fetch.outstanding_bytes, now)
        lacking = self.wait_seconds(now)
        if not lacking:
            return requests, fetch.wait_seconds(now)
        if not fetch.outstanding_bytes:
            fetch.rest(now)
        return requests, min(lacking, fetch.wait_seconds(now))

    def may_ask(self, outstanding_bytes: int, now: float) -> float:
        """Return how many bytes may be asked for beside those on their way; ``inf`` is all.

        Raises:
            BudgetSpentError: Nothing is on its way, and the day's bytes are spent.

        """
        link = self._look(now)
        if link is None:
            return inf
        self._renew()
        allowed = self._level(link, now)
        limit = link.limits.bytes_per_day
        if limit is None:
            return allowed
        spent = self._spent.get(link.name, 0)
        left = limit - spent - outstanding_bytes
        if left < CHUNK_BYTES and not outstanding_bytes:
            raise BudgetSpentError(
                f"{spent} of {limit} bytes that [budget.{link.name}] allows in a day are spent on "
                f"{link.interface}: fetching goes on after 00:00 UTC, or over another link"
            )
        return max(0.0, min(allowed, left))

    def wait_seconds(self, now: float) -> float:
        """Return when a chunk may be asked for by the bytes per second."""
        link = self._look(now)
        if link is None or link.limits.bytes_per_second is None:
            return 0.0
        lacking = CHUNK_BYTES - self._level(link, now)
        return max(0.0, lacking / link.limits.bytes_per_second)

    def asked(self, new_bytes: int, outstanding_bytes: int, now: float) -> None:
        """Note what is about to be asked for; ``outstanding_bytes`` has it included.

        Raises:
            DiskFullError, StoreError: It cannot be noted, and must not be asked for.

        """
        link = self._look(now)
        if link is None:
            return
        if link.limits.bytes_per_second is not None:
            self._tokens[link.name] = (self._level(link, now) - new_bytes, now)
        limit = link.limits.bytes_per_day
        needed = self._spent.get(link.name, 0) + outstanding_bytes
        if limit is not None and needed > self._noted.get(link.name, 0):
            block = min(BLOCK_BYTES, limit // BLOCKS_PER_DAY)
            self._write(link.name, min(needed + block, max(limit, needed)))

    def came(self, size_bytes: int) -> None:
        """Count bytes that arrived."""
        if self._link is not None and self._link.limits.bytes_per_day is not None:
            name = self._link.name
            self._spent[name] = self._spent.get(name, 0) + size_bytes

    def settle(self) -> None:
        """Note exactly what was spent, when nothing is on its way any more.

        Raises:
            DiskFullError, StoreError: It cannot be noted; too much stays noted.

        """
        for name, spent in list(self._spent.items()):
            if self._noted.get(name, 0) != spent:
                self._write(name, spent)

    @property
    def paced(self) -> bool:
        """Whether this link has a limit per second, so that others must not set the pace."""
        return self._link is not None and self._link.limits.bytes_per_second is not None

    def _look(self, now: float) -> _Link | None:
        """Return the class of the present link, if it has one."""
        if self._classes and now - self._looked >= LOOK_SECONDS:
            self._looked = now
            name = self._interface()
            self._link = None if name is None else _classify(name, self._classes)
        return self._link

    def _level(self, link: _Link, now: float) -> float:
        """Return the bytes that may leave by the limit per second; a bucket of one second."""
        rate = link.limits.bytes_per_second
        if rate is None:
            return inf
        burst = max(float(rate), 2.0 * CHUNK_BYTES)
        level, at = self._tokens.get(link.name, (burst, now))
        level = min(burst, level + max(0.0, now - at) * rate)
        self._tokens[link.name] = (level, now)
        return level

    def _renew(self) -> None:
        day = self._signed_ms() // DAY_MS
        if self._day is None:
            self._day = day
        if day > self._day:
            self._day = day
            self._noted, self._spent = {}, {}

    def _read(self) -> tuple[int | None, dict[str, int]]:
        try:
            file = read_versioned(self._disk, BUDGET, BudgetFile)
        except NewerStateError:
            raise
        except StoreError as why:  # what is not known is taken for spent, until the next day
            log.warning("budget state=unreadable why=%s", why)
            known = {name: c.bytes_per_day or 0 for name, c in self._classes.items()}
            return None, known
        if file is None:
            return 0, {}
        return file.day, {name: one.spent for name, one in file.classes.items()}

    def _write(self, name: str, noted: int) -> None:
        after = self._noted | {name: noted}
        classes = {
            known: Spent(spent=spent, limit=self._classes[known].bytes_per_day or 0)
            for known, spent in after.items()
            if known in self._classes
        }
        self._disk.replace(BUDGET, encode(BudgetFile(day=self._day or 0, classes=classes)))
        self._noted = after


def _classify(interface: str, classes: Mapping[str, BudgetConfig]) -> _Link | None:
    for name, limits in classes.items():
        if any(fnmatchcase(interface, pattern) for pattern in limits.interfaces):
            return _Link(name, interface, limits)
    return None
