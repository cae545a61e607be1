"""Chunks that travel once for many devices: heard while an artifact is fetched.

Rule 1: the group topic of an artifact is subscribed to when it is first asked for, and
        given up when nothing was asked of it for a while, so that an idle device hears
        nothing of what others fetch.
Rule 2: while chunks are heard there, nothing is asked for: what is missing will come.
        After a second of silence, and a random moment more so that not all devices ask
        at once, what is still missing is asked for.
Rule 3: every few chunks the manager is told how far this device has come, and keeps to
        the pace of the slowest that can be waited for.
Rule 4: nothing here is believed; a chunk counts by its hash, wherever it was heard.
"""

from collections.abc import Callable
from dataclasses import dataclass
from random import SystemRandom

import msgspec

from agent.contract.messages import ChunkRequest
from agent.contract.topics import ARTIFACT_CAST, EVERYBODY, Address
from agent.daemon.agenda import Agenda

QUIET_SECONDS = 1.0
JITTER_SECONDS = 1.0
UNUSED_SECONDS = 20.0
TELL_CHUNKS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What this room needs of the others.

    Attributes:
        ask: Publishes a request for chunks; False when offline.
        listen, unlisten: Subscribe to an address, and no longer; ``listen`` is False offline.
        monotonic: Seconds.
        paced: Whether this link may not be sent chunks at the pace of others.

    """

    ask: Callable[[ChunkRequest], bool]
    listen: Callable[[Address], bool]
    unlisten: Callable[[Address], None]
    monotonic: Callable[[], float]
    paced: Callable[[], bool] = lambda: False


class Listening:
    """Between what wants chunks and the link."""

    def __init__(
        self, agenda: Agenda, around: Surroundings, *, appointment: str = "listening"
    ) -> None:
        self._agenda = agenda
        self._appointment = appointment
        self._around = around
        self._address: Address | None = None
        self._digest = ""
        self._heard = 0
        self._asks_again = 0.0
        self._jitter = 0.0
        self._chance = SystemRandom()

    def ask(self, request: ChunkRequest) -> bool:
        """Ask for chunks, unless they are just coming; False when offline."""
        now = self._around.monotonic()
        self._agenda.at(self._appointment, now + UNUSED_SECONDS, self.stop)
        if self._around.paced():
            self.stop()
            return self._around.ask(request)
        heard = self._listen(request.a)
        if heard and now < self._asks_again:
            return True
        return self._around.ask(msgspec.structs.replace(request, g=heard))

    def heard(self, address: Address, index: int) -> None:
        """Note that a chunk came on a group's topic and is about to be taken."""
        if address != self._address:
            self._around.unlisten(address)  # left from a session of an earlier life
            return
        self._asks_again = self._around.monotonic() + QUIET_SECONDS + self._jitter
        self._heard += 1
        if self._heard % TELL_CHUNKS == 0:
            told = ChunkRequest(a=self._digest, g=True, heard=index, r=((index, 1),))
            self._around.ask(told)

    def stop(self) -> None:
        """Hear no group's chunks any longer."""
        if self._address is not None:
            self._around.unlisten(self._address)
        self._address, self._asks_again = None, 0.0

    def _listen(self, digest: str) -> bool:
        address = cast_address(digest)
        if address == self._address:
            return True
        self.stop()
        if not self._around.listen(address):
            self._around.unlisten(address)
            return False
        self._address, self._digest = address, digest
        self._jitter = self._chance.uniform(0.0, JITTER_SECONDS)
        return True


def cast_address(digest: str) -> Address:
    """Return where the chunks of an artifact travel for everybody."""
    return ARTIFACT_CAST.at(EVERYBODY, digest[:16])
