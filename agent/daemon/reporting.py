"""Everything that this device says: state, reports, predictions, requests.

Rule 1: telemetry and events go through the durable outbox, with a number of their boot;
        they are sent until the director acknowledges them.
Rule 2: state (presence, inventory, reported) is retained by the broker and sent anew
        after each connect; state and requests are numbered from 2**40 in memory.
Rule 3: an alarm with the same code and sentence is told once an hour, and at most
        ``ALARMS_PER_MINUTE`` of all; what was held back is counted in the next one.
"""

import secrets
import time
from collections import deque
from collections.abc import Callable
from itertools import count
from typing import assert_never

from nacl.signing import SigningKey

from agent.contract.codec import encode
from agent.contract.envelope import Boot, stamp_report
from agent.contract.limits import PROTOCOL
from agent.contract.messages import (
    ChunkRequest,
    Event,
    FreshRequest,
    GrantRequest,
    Inventory,
    MetaRequest,
    Presence,
    Reported,
)
from agent.contract.telemetry import Prediction, Telemetry
from agent.contract.topics import (
    ARTIFACT_REQUEST,
    EVENT,
    FRESH_REQUEST,
    GRANT_REQUEST,
    INVENTORY,
    META_REQUEST,
    PREDICTION,
    PRESENCE,
    REPORTED,
    ROUND_ANSWER,
    ROUND_CHUNK,
    TELEMETRY,
    Address,
)
from agent.daemon.agenda import Agenda
from agent.daemon.host import event, log
from agent.daemon.moments import moment
from agent.errors import StoreError
from agent.link.connection import Outgoing
from agent.link.outbox import Outbox

FIRST_STATE_NUMBER = 2**40
ALARMS_PER_MINUTE = 10
ALARM_AGAIN_SECONDS = 3600.0
STREAM = "windows"


class Signer:
    """Stamps what does not go through the outbox; any thread may use it."""

    def __init__(self, key: SigningKey, device: str, boot: Boot, agent: str) -> None:
        self._key = key
        self._numbers = count(FIRST_STATE_NUMBER)
        self.device = device
        self.boot = boot
        self.agent = agent

    def stamped(
        self, address: Address, payload: bytes, content_type: str = "application/json"
    ) -> Outgoing:
        """Return a message of this device with its stamp."""
        stamp = stamp_report(self._key, address.logical, self.boot, next(self._numbers), payload)
        return Outgoing(
            address=address,
            payload=payload,
            properties=stamp.properties(),
            content_type=content_type,
        )

    def signature(self, topic: str, boot: Boot, sequence: int, payload: bytes) -> bytes:
        """Return the signature of a report of the outbox."""
        return stamp_report(self._key, topic, boot, sequence, payload).signature

    def presence(self, s: str, epoch: int, why: str = "") -> Outgoing:
        """Return the presence of this life, on its connection ``epoch``."""
        said = Presence(
            s=s, why=why, boot=str(self.boot), epoch=epoch, agent=self.agent, proto=(PROTOCOL,)
        )
        return self.stamped(PRESENCE.at(self.device), encode(said))

    def will(self, epoch: int) -> Outgoing:
        """Return what the broker says when this connection dies."""
        return self.presence("offline", epoch, "connection lost")


class Reporting:
    """The way out."""

    def __init__(
        self,
        outbox: Outbox,
        signer: Signer,
        *,
        publish: Callable[[Outgoing], bool],
        agenda: Agenda,
    ) -> None:
        self.outbox = outbox
        self.signer = signer
        self._publish = publish
        self._agenda = agenda
        self._told: dict[tuple[str, str], float] = {}
        self._alarms: deque[float] = deque()
        self._held_back = 0

    def state(self, message: Inventory | Reported) -> bool:
        """Publish retained state; False when offline."""
        channel = INVENTORY if isinstance(message, Inventory) else REPORTED
        return self._publish(self.signer.stamped(channel.at(self.signer.device), encode(message)))

    def online(self, epoch: int) -> bool:
        """Publish that this device is online; False when offline."""
        return self._publish(self.signer.presence("online", epoch))

    def ask(self, request: MetaRequest | FreshRequest | ChunkRequest | GrantRequest) -> bool:
        """Publish a request; False when offline, then it is asked again."""
        match request:
            case MetaRequest():
                channel = META_REQUEST
            case FreshRequest():
                channel = FRESH_REQUEST
            case ChunkRequest():
                channel = ARTIFACT_REQUEST
            case GrantRequest():
                channel = GRANT_REQUEST
            case _:
                assert_never(request)
        return self._publish(self.signer.stamped(channel.at(self.signer.device), encode(request)))

    def answer_task(self, run: str, parcel: bytes) -> bool:
        """Publish the answer to a task of a run; False when offline."""
        address = ROUND_ANSWER.at(self.signer.device, run)
        return self._publish(
            self.signer.stamped(address, parcel, content_type="application/octet-stream")
        )

    def round_chunk(self, name: str, piece: bytes) -> bool:
        """Publish a piece of an answer that the manager asked for; False when offline."""
        address = ROUND_CHUNK.at(self.signer.device, name)
        content_type = "application/octet-stream"
        return self._publish(Outgoing(address=address, payload=piece, content_type=content_type))

    def telemetry(self, telemetry: Telemetry) -> None:
        """Report windows.

        Raises:
            DiskFullError, StoreError: They could not be kept.

        """
        self.outbox.append(TELEMETRY, STREAM, encode(telemetry))
        self.send_soon()

    def prediction(self, prediction: Prediction) -> None:
        """Publish one answer for integrations; it may be lost."""
        address = PREDICTION.at(self.signer.device, prediction.slot)
        self._publish(Outgoing(address=address, payload=encode(prediction)))

    def event(self, said: Event) -> None:
        """Report that something happened; it is on the medium when this returns.

        Raises:
            DiskFullError, StoreError: It could not be kept.

        """
        self.outbox.append(EVENT, said.type, encode(said))
        self.send_soon()

    def alarm(self, code: str, why: str, *, slot: str | None = None) -> None:
        """Report that something is refused or wrong, unless that was told already."""
        now = time.monotonic()
        last = self._told.get((code, why))
        while self._alarms and self._alarms[0] < now - 60.0:
            self._alarms.popleft()
        known = last is not None and now - last < ALARM_AGAIN_SECONDS
        if known or len(self._alarms) >= ALARMS_PER_MINUTE:
            self._held_back += 1
            return
        held, self._held_back = self._held_back, 0
        self._told = {k: at for k, at in self._told.items() if now - at < ALARM_AGAIN_SECONDS}
        self._told[code, why] = now
        self._alarms.append(now)
        log.warning(event("alarm", code=code, why=why, held_back=held))
        text = f"{why} ({held} more were held back)" if held else why
        ts, up = moment()
        said = Event(
            id=secrets.token_hex(16),
            type="alarm",
            ts=ts,
            up=up,
            slot=slot,
            code=code[:500],
            why=text[:500],
        )
        try:
            self.event(said)
        except StoreError as full:
            log.error(event("alarm-lost", code=full.code, why=full))

    def acknowledged(self, boot: str, sequence: int) -> None:
        """Settle what the director has durably recorded."""
        settled = self.outbox.acknowledge(Boot.parse(boot), sequence)
        if settled:
            self.send_soon()

    def connected(self) -> None:
        """Send again what the old connection may have lost."""
        self.outbox.reconnected()
        self.send_soon()

    def send_soon(self) -> None:
        """Send what is due after what is being done now."""
        self._agenda.at("outbox", time.monotonic(), self.send_due)

    def send_due(self) -> None:
        """Send reports that were never sent, or not acknowledged for too long."""
        for record in self.outbox.due(time.monotonic()):
            message = Outgoing(
                address=record.address,
                payload=record.payload,
                properties=record.stamp.properties(),
            )
            if not self._publish(message):
                return  # ``connected`` comes back here
            self.outbox.sent(record, time.monotonic())
        wait = self.outbox.next_due(time.monotonic())
        if wait is not None:
            later = time.monotonic() + max(wait, 0.05)
            self._agenda.at("outbox", later, self.send_due)
