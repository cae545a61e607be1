"""This device's certificate for its broker: asked for with signed time, and taken over.

Rule 1: it is asked for only where the director says that there are any, and only while this
        device has none, or half of the time of its own has gone.
Rule 2: each question has a key of its own; the answer to a question counts for that key.
Rule 3: the device says which certificate it has, so that the fleet knows when all have one.
Rule 4: the next connection shows the new one; the one that stands is left alone.
"""

from collections.abc import Callable
from dataclasses import dataclass
from random import SystemRandom

import msgspec
from nacl.signing import SigningKey

from agent.contract.messages import Fresh, FreshRequest
from agent.daemon.agenda import Agenda
from agent.daemon.host import event, log
from agent.disk import Disk
from agent.errors import AgentError
from agent.identity.certificate import install, load_certificate

CERTIFYING = "certifying"
MOST_QUESTIONS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What this room needs of the others.

    Attributes:
        ask_again: Asks for signed time, and so for what goes with it.
        alarm: Something is refused: (code, sentence).
        monotonic: Seconds.

    """

    ask_again: Callable[[], None]
    alarm: Callable[[str, str], None]
    monotonic: Callable[[], float]


class Certifying:
    """Between signed time and the certificate on the medium.

    Raises:
        NewerStateError, StoreError: The certificate cannot be read.

    """

    def __init__(
        self, disk: Disk, agenda: Agenda, around: Surroundings, *, jitter_seconds: float
    ) -> None:
        self._disk = disk
        self._agenda = agenda
        self._around = around
        self._jitter_seconds = jitter_seconds
        self._file = load_certificate(disk)
        self._wanted = False
        self._keys: dict[str, SigningKey] = {}

    def complete(self, request: FreshRequest) -> FreshRequest:
        """Return a question with what belongs to certificates."""
        held = self._file.fingerprint if self._file else None
        if not self._wanted:
            return msgspec.structs.replace(request, certificate=held)
        while len(self._keys) >= MOST_QUESTIONS:
            del self._keys[next(iter(self._keys))]
        key = self._keys[request.nonce] = SigningKey.generate()
        public = bytes(key.verify_key).hex()
        return msgspec.structs.replace(request, certificate=held, tls_key=public)

    def said(self, fresh: Fresh) -> None:
        """Take over what came with signed time."""
        key = self._keys.get(fresh.nonce)
        if fresh.certificate is not None and key is not None:
            self._keys.clear()
            try:
                self._file = install(self._disk, key, fresh.certificate)
            except AgentError as why:
                self._around.alarm(why.code, f"client certificate: {why}")
                return
            log.info(event("certified", expires_ms=fresh.certificate.expires_ms))
            self._wanted = False
            self._ask_soon()
            return
        before = self._wanted
        due = self._file is None or self._file.is_due(fresh.now_ms)
        self._wanted = fresh.certificates and due
        if self._wanted and not before:
            self._ask_soon()

    def _ask_soon(self) -> None:
        later = SystemRandom().uniform(0.0, self._jitter_seconds)
        self._agenda.at(CERTIFYING, self._around.monotonic() + later, self._around.ask_again)
