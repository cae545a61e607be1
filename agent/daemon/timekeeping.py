"""Signed time: questions that are open, and the one answer that is believed.

Rule 1: an answer counts for an open question of ours; on a slow way it comes after the next
        was asked. What answers none leaves them open. One of an unknown director is kept
        for after a refresh, like every puzzle. The first answer to a question that another
        answer closed is late and no more than that.
Rule 2: it is asked again until it comes, and from then on once in a while.
Rule 3: what nobody signs, a hint, only lets this device ask sooner, at a moment of its own.
"""

from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from random import SystemRandom

from agent.contract.belief import believe_fresh
from agent.contract.messages import Fresh, FreshRequest
from agent.daemon.agenda import Agenda
from agent.daemon.host import event, log
from agent.daemon.refreshing import Refreshing
from agent.errors import AgentError, MismatchError, StoreError, UnsignedError
from agent.identity.clock import TrustedClock
from agent.refusals import WrongNonceError

FRESH, HINTED = "fresh", "hinted"
MAX_QUESTIONS = 4  # open at once; a nonce lives 60 s
MAX_LATE = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What this room needs of the others.

    Attributes:
        ask: Publishes a question; False when offline.
        holds: The digest of the newest assignment that was believed.
        missing: Whether signed time announces, for the first time, an assignment that has
            not come; then it is asked again soon.
        time_known: Signed time came for the first time in this life.
        answered: A director answered what was asked on the connection of now.
        said: What else came with signed time.
        refuse: Logs what is refused and why, and makes an alarm of it.
        note: Logs it only.
        monotonic: Seconds.

    """

    ask: Callable[[FreshRequest], bool]
    holds: Callable[[], str | None]
    missing: Callable[[Fresh], bool]
    time_known: Callable[[], None]
    answered: Callable[[], None]
    said: Callable[[Fresh], None]
    refuse: Callable[[str, AgentError], None]
    note: Callable[[str, AgentError], None]
    monotonic: Callable[[], float]


class Timekeeping:
    """The questions of this device for the time, and the clock that the answers set."""

    def __init__(
        self,
        clock: TrustedClock,
        refreshing: Refreshing,
        agenda: Agenda,
        around: Surroundings,
        *,
        device: str,
        answer_seconds: float,
        fresh_seconds: float,
        jitter_seconds: float,
    ) -> None:
        self._clock = clock
        self._refreshing = refreshing
        self._agenda = agenda
        self._around = around
        self._device = device
        self._answer_seconds = answer_seconds
        self._fresh_seconds = fresh_seconds
        self._jitter_seconds = jitter_seconds
        self._nonces: deque[str] = deque(maxlen=MAX_QUESTIONS)
        self._unanswered: deque[str] = deque(maxlen=MAX_LATE)
        self._misled = False

    def ask(self) -> None:
        """Ask for signed time; asked again until it comes."""
        if len(self._nonces) == MAX_QUESTIONS:
            self._unanswered.append(self._nonces[0])
        self._nonces.append(self._clock.new_nonce())
        self._misled = False
        self._around.ask(FreshRequest(nonce=self._nonces[-1], holds=self._around.holds()))
        later = self._around.monotonic() + self._answer_seconds
        self._agenda.at(FRESH, later, self.ask)

    def hinted(self) -> None:
        """Ask soon: somebody says that something changed; nobody signs that."""
        if not self._agenda.holds(HINTED):
            later = SystemRandom().uniform(0.0, self._jitter_seconds)
            self._agenda.at(HINTED, self._around.monotonic() + later, self.ask)

    def take(self, payload: bytes) -> None:
        """Take over signed time, if it answers an open question of ours.

        What answers none is an alarm once for each time that we ask.
        """
        if not self._nonces:
            return
        first = self._clock.trusted_ms() is None
        try:
            fresh = self._believe(payload)
            self._set_clock(fresh)
        except (UnsignedError, MismatchError) as why:
            self._refreshing.puzzle(
                "signed-time", why, lambda: self._nonces and self._believe(payload)
            )
        except AgentError as why:
            if isinstance(why, WrongNonceError) and self._is_late(payload):
                return
            refuse = self._around.note if self._misled else self._around.refuse
            refuse("signed-time", why)
            self._misled = True
        else:
            self._unanswered.extend(n for n in self._nonces if n != fresh.nonce)
            self._nonces.clear()
            log.info(event("fresh", now_ms=fresh.now_ms, sequence=fresh.sequence))
            wait = self._fresh_seconds
            if self._around.missing(fresh):
                wait = min(self._answer_seconds, wait)
            self._agenda.at(FRESH, self._around.monotonic() + wait, self.ask)
            if first:
                self._around.time_known()
            self._around.answered()
            self._around.said(fresh)
            self._refreshing.follow(root=fresh.root, targets=fresh.targets)

    def _believe(self, payload: bytes) -> Fresh:
        authority = self._refreshing.authority
        read = partial(believe_fresh, payload, authority=authority, device=self._device)
        *older, newest = self._nonces
        for nonce in older:
            with suppress(WrongNonceError):
                return read(nonce=nonce)
        return read(nonce=newest)

    def _is_late(self, payload: bytes) -> bool:
        """Whether it is the first answer to a question that is closed."""
        authority = self._refreshing.authority
        for nonce in tuple(self._unanswered):
            with suppress(AgentError):
                believe_fresh(payload, authority=authority, device=self._device, nonce=nonce)
                self._unanswered.remove(nonce)
                return True
        return False

    def _set_clock(self, fresh: Fresh) -> None:
        try:
            self._clock.believe(
                fresh, fresh.nonce, root_expires_ms=self._refreshing.root_expires_ms
            )
        except StoreError as why:  # the time is known all the same, only the floor did not rise
            self._around.refuse("time-floor", why)
