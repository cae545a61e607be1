"""Finding the fleet: the link goes where the signed list says, and comes back if that fails.

Rule 1: what is decided stands in ``link.roaming``; here it is performed, with the clock,
        the medium and the link.
Rule 2: a proof counts only for the endpoint that the connection of now was made to. News of
        an earlier address is told apart by its number.
Rule 3: a new home is on the medium before it is reported.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from random import SystemRandom
from typing import assert_never

from agent.contract.endpoints import (
    Endpoint,
    EndpointReport,
    believe_endpoints,
    is_usable,
    usable,
)
from agent.daemon.agenda import Agenda
from agent.daemon.host import event, log
from agent.disk import Disk
from agent.errors import EndpointError, StoreError
from agent.identity.home import save_home
from agent.link import roaming
from agent.link.inbox import Connected, Refused

PROOF, TRY = "endpoint-proof", "endpoint-try"


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long is waited, in seconds.

    Attributes:
        proof: For a signed answer through an endpoint.
        again: Between the first two tries of an endpoint that failed; it doubles.
        jitter: At most, before a newly listed endpoint is tried.

    """

    proof: float
    again: float
    jitter: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What this room needs of the others.

    Attributes:
        redirect: Sends the link elsewhere: (endpoint, its number, whether at once).
        changed: The way that this device believes is another one: report it.
        alarm: Something went wrong: (code, sentence).

    """

    redirect: Callable[[Endpoint, int, bool], None]
    changed: Callable[[], None]
    alarm: Callable[[str, str], None]
    monotonic: Callable[[], float] = time.monotonic


class Finding:
    """Where the fleet is looked for."""

    def __init__(
        self,
        disk: Disk,
        agenda: Agenda,
        around: Surroundings,
        *,
        fleet: str,
        home: Endpoint,
        patience: Patience,
    ) -> None:
        self._disk = disk
        self._agenda = agenda
        self._around = around
        self._fleet = fleet
        self._patience = patience
        self._state = roaming.Roaming(home=home, at=home)
        self._content: bytes | None = None
        self._place = 0
        self._on: int | None = None

    def listed(self, content: bytes | None) -> None:
        """Take the bytes of the verified list; None where none is signed."""
        known = self._content
        self._content = content
        self._step(roaming.Listed(usable(believe_endpoints(content, fleet=self._fleet))))
        if content != known:
            self._around.changed()

    def connected(self, news: Connected) -> None:
        """Take that the link stands, perhaps to an address that is no longer wanted."""
        self._on = news.place
        if news.place == self._place:
            self._step(roaming.Opened())

    def refused(self, news: Refused) -> None:
        """Take that the link could not be made."""
        if news.place == self._place:
            self._step(roaming.Refused(news.reason))

    def answered(self) -> None:
        """Take that a director answered what was asked on the connection of now."""
        if self._on == self._place:
            self._step(roaming.Proved())

    def report(self) -> EndpointReport:
        """Return what this device believes of the way to its fleet."""
        home, held = self._state.home, believe_endpoints(self._content, fleet=self._fleet)
        return EndpointReport(
            version=held.version if held else 0,
            digest=sha256(self._content).hexdigest() if held and self._content else None,
            url=home.url,
            cas=home.fingerprints if is_usable(home) else (),
            listed=held is not None and home in held.endpoints,
        )

    def _step(self, news: roaming.Event) -> None:
        self._state, effects = roaming.step(self._state, news)
        for effect in effects:
            self._perform(effect)

    def _perform(self, effect: roaming.Effect) -> None:
        now, patience = self._around.monotonic(), self._patience
        match effect:
            case roaming.Go(to, at_once):
                self._place += 1
                log.info(event("endpoint", url=to.url, authorities=_marks(to), at_once=at_once))
                self._around.redirect(to, self._place, at_once)
            case roaming.Keep(home):
                self._keep(home)
            case roaming.AwaitProof():
                seconds = self._state.dwell_seconds(patience.proof)
                self._agenda.at(PROOF, now + seconds, lambda: self._step(roaming.Silent(seconds)))
            case roaming.ProofCame():
                self._agenda.cancel(PROOF)
            case roaming.TrySoon():
                self._try_at(now + SystemRandom().uniform(0.0, patience.jitter))
            case roaming.TryLater() if not self._agenda.holds(TRY):
                pause = self._state.pause_seconds(patience.again)
                self._try_at(now + pause * SystemRandom().uniform(0.75, 1.25))
            case roaming.TryLater():
                return
            case roaming.Moved(before, after, planned):
                marks = _marks(after)
                log.info(event("endpoint-moved", to=after.url, authorities=marks, by_try=planned))
                if not planned:
                    self._tell(f"the fleet answers at {after.url}, no longer at {before.url}")
                self._around.changed()
            case roaming.Reverted(tried, back, why):
                self._tell(f"{tried.url} is not used, it is back to {back.url}: {why}")
            case _:
                assert_never(effect)

    def _try_at(self, when: float) -> None:
        self._agenda.at(TRY, when, lambda: self._step(roaming.Due()))

    def _keep(self, home: Endpoint) -> None:
        try:
            save_home(self._disk, home)
        except StoreError as why:  # after a restart it is looked for again
            self._around.alarm(why.code, f"endpoint: {why}")

    def _tell(self, sentence: str) -> None:
        self._around.alarm(EndpointError.code, sentence)


def _marks(endpoint: Endpoint) -> str:
    return ",".join(mark[:16] for mark in endpoint.fingerprints) or "of-the-system"
