"""What devices say, recorded: a batch of messages, one transaction.

Rule 1: recorded first, acknowledged after; a message that arrives twice changes nothing.
Rule 2: a message that cannot be believed is dropped whole and stops no other; nor does one
        that this program stumbles over, which a broker would deliver again at every start.
        Only a registry that cannot record stops the manager: nothing is acknowledged then.
Rule 3: a numbered report that its device signed is counted even when it cannot be used,
        because a device repeats what is never acknowledged.
Rule 4: answers are put on the desk and leave after the transaction.
"""

import logging
from collections.abc import Callable, Iterable
from functools import partial
from hashlib import sha256
from typing import TypeVar, assert_never

from agent.contract.envelope import Boot
from agent.contract.messages import (
    Ack,
    ChunkRequest,
    Event,
    Fresh,
    FreshRequest,
    GrantRequest,
    Inventory,
    MetaRequest,
    Presence,
    Reported,
)
from agent.contract.rounds import TaskAnswer
from agent.contract.telemetry import Telemetry
from agent.contract.topics import (
    ACK,
    ASSIGNMENT,
    ENROL_REQUEST,
    FRESH,
    PREDICTION,
    ROUND_CHUNK,
)
from agent.errors import AgentError
from fleet.errors import FleetError, RefusedError, RegistryError
from fleet.ingest import intake
from fleet.ingest.intake import Said, Unreadable
from fleet.ingest.mail import Arrived
from fleet.ingest.serve import ChunkServer, metadata_pieces
from fleet.registry.devices import BootSeen
from fleet.service import (
    certificates,
    downloads,
    membership,
    resumption,
    rollouts,
    round_answers,
    runs,
)
from fleet.service.desk import Desk
from fleet.signing.assignment import sign_ack, sign_fresh

LOG = logging.getLogger(__name__)
R = TypeVar("R")
_RECORDED = (Presence, Inventory, Reported, Telemetry, Event, Unreadable)
_ROW_BYTES = 512  # what a record takes beside its payload


def take(desk: Desk, arrived: Iterable[Arrived], chunks: ChunkServer) -> None:
    """Record a batch and put what must be answered on the desk."""
    due: dict[tuple[str, Boot], None] = {}
    with desk.registry.transaction():
        for message in arrived:
            said = _alone(desk, message.topic, partial(_read, desk, message))
            if said is None or not _has_room(desk, said, len(message.payload)):
                continue
            taken = _alone(desk, message.topic, partial(_take, desk, said, chunks))
            if said.spooled and said.stamp is not None:
                if taken is None:
                    _alone(desk, message.topic, partial(_count_unusable, desk, said))
                due[said.device, said.stamp.boot] = None
        for device, boot in due:
            _acknowledge(desk, device, boot)


def _alone(desk: Desk, topic: str, take_one: Callable[[], R]) -> R | None:
    """Return what became of one message; None if it was refused, and then it left no trace."""
    try:
        with desk.registry.savepoint():
            return take_one()
    except RegistryError:
        raise
    except (AgentError, FleetError) as why:
        LOG.warning("refused topic=%s code=%s why=%s", topic, why.code, why)
    except Exception:  # a bug; delivered again at every start, it would keep the manager down
        LOG.exception("dropped topic=%s", topic)
    return None


def _has_room(desk: Desk, said: Said, size_bytes: int) -> bool:
    """Return whether this is to be recorded now.

    Of a device that says more than any outbox holds, the rest stays unacknowledged: it comes
    again, later. Otherwise one stolen device would fill the disk under all of them.
    """
    if not isinstance(said.body, _RECORDED):
        return True
    if desk.telling.lets(said.device, desk.now_ms(), size_bytes + _ROW_BYTES):
        return True
    if desk.telling.begins_to_refuse(said.device):
        LOG.warning("device=%s says more than is recorded; it will say it again", said.device)
    return False


def _count_unusable(desk: Desk, said: Said) -> None:
    if said.stamp is not None:
        desk.registry.reports.accept(
            said.device, said.stamp.boot, said.stamp.sequence, "unusable", at_ms=desk.now_ms()
        )


def _read(desk: Desk, message: Arrived) -> Said | None:
    if not message.payload:
        return None  # somebody cleared a retained topic
    address = desk.topics.read(message.topic)
    if address.channel is ENROL_REQUEST:
        membership.ask_to_join(desk, address.who, message.payload)
        return None
    if address.channel is ROUND_CHUNK:
        round_answers.take_chunk(desk, address.who, message.payload)
        return None
    if address.channel is PREDICTION:
        if desk.predicted is not None:
            who = address.who
            said = intake.read_prediction(
                who, message.payload, lambda d: membership.key_of(desk, d)
            )
            desk.predicted(who, said)
        return None
    return intake.read(
        address, message.payload, message.properties, lambda d: membership.key_of(desk, d)
    )


def _take(desk: Desk, said: Said, chunks: ChunkServer) -> bool:
    """Record and answer what was said; True, for whoever asks whether it was refused."""
    registry, now_ms = desk.registry, desk.now_ms()
    match said.body:
        case MetaRequest() as wanted:
            _send_metadata(desk, said.device, wanted)
            return True
        case ChunkRequest() as ranges:
            chunks.ask(said.device, ranges)
            return True
        case GrantRequest() as asked_for:
            downloads.answer(desk, said.device, asked_for)
            return True
        case Unreadable(why):
            raise RefusedError(why)
        case _:
            if said.stamp is None:
                return True
            boot = said.stamp.boot
    match said.body:
        case Presence() as presence:
            _present(desk, said.device, boot, presence)
        case Inventory() as inventory:
            registry.devices.inventory(said.device, boot, inventory, at_ms=now_ms)
        case Reported() as reported:
            _report(desk, said.device, boot, reported)
        case Telemetry() as telemetry:
            if registry.reports.accept(
                said.device, boot, said.stamp.sequence, "tele", at_ms=now_ms
            ):
                registry.reports.windows_add(said.device, boot, telemetry.windows, at_ms=now_ms)
                registry.machines.note(said.device, boot, telemetry.health, at_ms=now_ms)
        case Event() as event:
            if registry.reports.accept(said.device, boot, said.stamp.sequence, "evt", at_ms=now_ms):
                _happened(desk, said.device, event)
        case FreshRequest() as asked:
            _refresh(desk, said.device, asked)
        case TaskAnswer() as answer:
            round_answers.take(desk, said.device, answer, said.attachment)
        case _:
            assert_never(said.body)
    registry.devices.saw(said.device, now_ms)
    return True


def _send_metadata(desk: Desk, device: str, wanted: MetaRequest) -> None:
    """Answer with a bundle, unless the device asks faster than it could need them.

    A request is small and a bundle is not: those that wait to be sent would fill our memory.
    """
    if not desk.reading.lets(device, desk.now_ms()):
        if desk.reading.begins_to_refuse(device):
            LOG.warning("metadata asked too often device=%s; unanswered for now", device)
        return
    files = desk.repository.bundle(wanted.root, wanted.targets)
    for address, payload in metadata_pieces(device, wanted, files):
        desk.send(address, payload)


def _report(desk: Desk, device: str, boot: Boot, reported: Reported) -> None:
    if desk.registry.devices.reported(device, boot, reported, at_ms=desk.now_ms()):
        resumption.take_up(desk, device, reported)


def _present(desk: Desk, device: str, boot: Boot, presence: Presence) -> None:
    devices, now_ms = desk.registry.devices, desk.now_ms()
    told = Boot.parse(presence.boot)
    if told != boot:
        raise RefusedError(f"{device} stamps presence of boot {told} with boot {boot}")
    if devices.boot_seen(device, boot, at_ms=now_ms) is BootSeen.REGRESSED:
        devices.quarantine(
            device,
            "two lives of one identity: its boot counter went back, as when a card is cloned or "
            "restored from an image; factory-reset one of them, it becomes a new device, then let "
            f"the other one back: fieldfare device readmit {device}",
            at_ms=now_ms,
        )
    if devices.presence(device, boot, presence.epoch, presence.s, at_ms=now_ms):
        LOG.info("presence device=%s s=%s why=%s", device, presence.s, presence.why)
        if presence.s == "online":
            runs.returned(desk, device)


def _happened(desk: Desk, device: str, event: Event) -> None:
    reports, now_ms = desk.registry.reports, desk.now_ms()
    match event.type:
        case "update":
            if reports.update_add(device, event, at_ms=now_ms):
                rollouts.heard(desk, device, event)
        case "evaluation":
            reports.evaluation_add(device, event, at_ms=now_ms)
        case "gap" if event.boot and event.first and event.last:
            reports.skip(device, Boot.parse(event.boot), event.first, event.last, at_ms=now_ms)
        case _:
            reports.alarm_add(device, event, at_ms=now_ms)
            LOG.warning("alarm device=%s code=%s why=%s", device, event.code, event.why)


def _refresh(desk: Desk, device: str, asked: FreshRequest) -> None:
    published = desk.repository.published()
    authority = published.authority
    kept = desk.registry.devices.assignment(device)
    digest = sha256(kept.payload).hexdigest() if kept else None
    if kept is not None and asked.holds != digest:
        desk.send(ASSIGNMENT.at(device), kept.payload)
    fresh = Fresh(
        device=device,
        nonce=asked.nonce,
        director_epoch=authority.director_epoch,
        sequence=kept.sequence if kept else 0,
        digest=digest,
        now_ms=desk.now_ms(),
        root=published.root.version,
        targets=published.targets.version,
        certificates=desk.clients is not None,
        certificate=certificates.asked(desk, device, asked),
    )
    desk.send(FRESH.at(device), sign_fresh(desk.keys.director, fresh, authority=authority))


def _acknowledge(desk: Desk, device: str, boot: Boot) -> None:
    ack = Ack(
        device=device,
        boot=str(boot),
        sequence=desk.registry.reports.recorded_up_to(device, boot),
    )
    payload = sign_ack(desk.keys.director, ack, authority=desk.repository.authority())
    desk.send(ACK.at(device), payload)
