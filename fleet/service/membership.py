"""Who belongs to the fleet: tokens, enrolment, approval, revocation."""

import logging

from msgspec.structs import replace
from nacl.signing import SigningKey, VerifyKey

from agent.contract.enrolment import EnrolmentFile, EnrolReply, EnrolRequest
from agent.contract.envelope import device_id
from agent.contract.messages import Assigned
from agent.contract.topics import CHANNELS, ENROL_REPLY, Way
from fleet.errors import RefusedError
from fleet.ingest.mosquitto import ENROL_USER
from fleet.registry.devices import Device, DeviceState
from fleet.registry.tokens import Approval, Token
from fleet.service import certificates, rollouts, runs
from fleet.service.behaviour import behaviour
from fleet.service.desk import Desk, Grant, Withdrawal
from fleet.service.overview import alarms, in_the_field, name_of, updates
from fleet.service.standing import standing_of
from fleet.service.turnstile import EVERYBODY
from fleet.service.views import DeviceView, SlotView, TokenView
from fleet.service.wishes import TokenWish
from fleet.signing import enrolment

LOG = logging.getLogger(__name__)
SHOWN_ALARMS = 5


def create_token(desk: Desk, wish: TokenWish) -> EnrolmentFile:
    """Make a token and return the file that devices are given; its seed is not kept.

    Raises:
        RefusedError: It is for WebSocket, and the broker has no listener for it.

    """
    if wish.wss and not desk.config.broker.wss_url:
        raise RefusedError(
            "this broker has no listener for WebSocket: set broker.wss_url in fleet.toml and run "
            "'fieldfare broker setup'"
        )
    now_ms = desk.now_ms()
    devices = tuple(dict.fromkeys(device_id(VerifyKey(bytes.fromhex(k))) for k in wish.devices))
    seed = SigningKey.generate()
    expires_ms = now_ms + wish.lifetime_seconds * 1000
    with desk.registry.transaction():
        desk.registry.tokens.add(
            bytes(seed.verify_key).hex(),
            group=wish.group,
            uses=wish.uses,
            expires_ms=expires_ms,
            approval=Approval(wish.approval),
            at_ms=now_ms,
            devices=devices,
        )
    isolated = desk.config.broker.kind == "mosquitto"
    return EnrolmentFile(
        fleet=desk.config.fleet,
        prefix=desk.config.prefix,
        enrol_url=desk.config.broker.wss_url if wish.wss else desk.config.broker.enrol_url,
        broker_ca=desk.config.broker_ca(),
        username=ENROL_USER if isolated else "",
        password=desk.config.secret("enrol-password") or "" if isolated else "",
        root_digest=desk.repository.root_digest(),
        token=bytes(seed).hex(),
        expires_ms=expires_ms,
    )


def tokens(desk: Desk) -> list[TokenView]:
    """Return every token, newest first."""
    return [
        TokenView(
            key=t.key,
            group=t.group,
            uses=t.uses,
            used_by=t.used_by,
            expires_ms=t.expires_ms,
            approval=str(t.approval),
            listed=t.listed,
        )
        for t in desk.registry.tokens.listing()
    ]


def devices(desk: Desk) -> list[DeviceView]:
    """Return every device, oldest first."""
    return [_view(desk, d) for d in desk.registry.devices.listing()]


def device(desk: Desk, device_id: str) -> DeviceView:
    """Return one device.

    Raises:
        NotFoundError: There is none with this id.

    """
    view = _view(desk, desk.registry.devices.require(device_id))
    return replace(
        view,
        last_update=next(iter(updates(desk, view.id, limit=1)), None),
        alarms=tuple(alarms(desk, view.id, limit=SHOWN_ALARMS)),
        in_the_field=in_the_field(desk, view.id),
        health=desk.registry.machines.of_device(view.id),
        behaviour=behaviour(desk, view.id),
        learning=standing_of(desk, view.id),
    )


def approve(desk: Desk, device_id: str) -> DeviceView:
    """Let a pending device in; it gets its credentials when it asks again.

    Raises:
        NotFoundError, ConflictError: Unknown, or revoked.

    """
    with desk.registry.transaction():
        approved = desk.registry.devices.approve(device_id, at_ms=desk.now_ms())
        # What it asked while it waited was answered: a recording of it opens nothing now.
        desk.registry.tokens.close_nonces(device_id)
        return _view(desk, approved)


def readmit(desk: Desk, device_id: str) -> DeviceView:
    """End a device's quarantine, once its other life is gone; a clone that lives begins it anew.

    Raises:
        NotFoundError, ConflictError: Unknown, or not in quarantine.

    """
    with desk.registry.transaction():
        return _view(desk, desk.registry.devices.readmit(device_id, at_ms=desk.now_ms()))


def revoke(desk: Desk, device_id: str) -> DeviceView:
    """Shut a device out for good: its broker account goes and its connection is cut.

    Nothing is wanted of it any more, rollouts and runs go on without it, and what the
    broker retained from and for it is cleared when its account is gone.

    Raises:
        NotFoundError: There is none with this id.

    """
    now_ms = desk.now_ms()
    with desk.registry.transaction():
        desk.registry.devices.revoke(device_id, at_ms=now_ms)
        for slot in desk.registry.devices.desired(device_id):
            desk.registry.devices.want(device_id, slot, None, at_ms=now_ms)
        rollouts.left(desk, device_id, "it was revoked")
    runs.left(desk, device_id)
    desk.device_keys.pop(device_id, None)
    desk.errands.append(Withdrawal(device_id))
    return device(desk, device_id)


def withdrawn(desk: Desk, device_id: str) -> None:
    """Forget what the broker retained of a device whose account is gone."""
    clear_retained(desk, device_id)


def clear_retained(desk: Desk, device_id: str) -> None:
    """Have the broker forget the last words from and for a device."""
    for channel in CHANNELS:
        if channel.retain and channel.way in {Way.UP, Way.DOWN}:
            desk.send(channel.at(device_id), b"")


def ask_to_join(desk: Desk, nonce: str, payload: bytes) -> None:
    """Judge an enrolment request and answer it; call it inside a transaction.

    Whoever asks too often gets no answer and is not counted: sealing one costs more than
    asking, and the account of a device that joins again is made anew each time.

    Raises:
        MalformedError, UnsignedError: It gets no answer.

    """
    now_ms = desk.now_ms()
    judged = enrolment.judge_request(
        payload,
        fleet=desk.config.fleet,
        nonce=nonce,
        token=lambda key: _token(desk.registry.tokens.find(key)),
        known=lambda found: _state(desk.registry.devices.find(found)),
        seen=desk.registry.tokens.is_answered,
        now_ms=now_ms,
        invited=desk.registry.tokens.invites,
    )
    if not _may_be_answered(desk, judged, now_ms):
        return
    match judged:
        case enrolment.Refused(request=request, device=device_id, why=why):
            _reply(desk, request, device_id, "refused", why)
        case enrolment.Pending(request=request, device=device_id, why=why):
            _add(desk, request, device_id, DeviceState.PENDING)
            _reply(desk, request, device_id, "pending", why)
        case enrolment.Admitted(request=request, device=device_id) if why := (
            certificates.why_not(desk, request)
        ):
            _reply(desk, request, device_id, "refused", why)
        case enrolment.Admitted(request=request, device=device_id):
            _add(desk, request, device_id, DeviceState.ENROLLED)
            desk.errands.append(Grant(device=device_id, request=request))


def _may_be_answered(desk: Desk, judged: enrolment.Judgement, now_ms: int) -> bool:
    refused = isinstance(judged, enrolment.Refused)
    turnstile, who = (desk.strangers, EVERYBODY) if refused else (desk.joining, judged.device)
    if turnstile.lets(who, now_ms):
        return True
    if turnstile.begins_to_refuse(who):
        LOG.warning("enrolment asked too often by=%s; unanswered for now", who or "strangers")
    return False


def granted(desk: Desk, grant: Grant, password: str | None) -> None:
    """Send a device its credentials; None where the broker has no accounts."""
    if _state(desk.registry.devices.find(grant.device)) != "enrolled":
        return  # revoked meanwhile; its account is taken away by an errand of its own
    if not desk.registry.tokens.is_answered(grant.request.nonce):
        desk.registry.tokens.close_nonces(grant.device)
    reply = EnrolReply(
        device=grant.device,
        nonce=grant.request.nonce,
        fleet=desk.config.fleet,
        status="enrolled",
        broker_url=desk.config.broker.url,
        broker_ca=desk.config.broker_ca(),
        wss_url=desk.config.broker.wss_url,
        username=grant.device if password else None,
        password=password,
        certificate=certificates.granted(desk, grant),
    )
    _send_reply(desk, grant.request, reply)


def key_of(desk: Desk, device_id: str) -> VerifyKey | None:
    """Return the public key of an enrolled device."""
    known = desk.device_keys.get(device_id)
    if known is None:
        found = desk.registry.devices.find(device_id)
        if found is None or found.state is not DeviceState.ENROLLED:
            return None
        known = desk.device_keys[device_id] = VerifyKey(bytes.fromhex(found.key))
    return known


def _add(desk: Desk, request: EnrolRequest, device_id: str, state: DeviceState) -> None:
    registry, now_ms = desk.registry, desk.now_ms()
    token = registry.tokens.find(request.token_key)
    registry.tokens.use(request.token_key, device_id, at_ms=now_ms)
    registry.devices.add(
        device_id,
        key=request.device_key,
        group=token.group if token else "default",
        hardware=request.hardware,
        state=state,
        at_ms=now_ms,
    )
    registry.tokens.open_nonce(request.nonce, device_id, at_ms=now_ms)
    if state is DeviceState.ENROLLED:
        registry.devices.approve(device_id, at_ms=now_ms)


def _reply(desk: Desk, request: EnrolRequest, device_id: str, status: str, why: str) -> None:
    reply = EnrolReply(
        device=device_id, nonce=request.nonce, fleet=desk.config.fleet, status=status, why=why
    )
    _send_reply(desk, request, reply)


def _send_reply(desk: Desk, request: EnrolRequest, reply: EnrolReply) -> None:
    payload = enrolment.seal_reply(
        request,
        reply,
        key=desk.keys.enrolment,
        metadata=desk.repository.bundle(0, (), enrolling=True),
    )
    desk.send(ENROL_REPLY.at(request.nonce), payload)


def _token(found: Token | None) -> enrolment.Token | None:
    if found is None:
        return None
    return enrolment.Token(
        uses_left=found.uses - len(found.used_by),
        expires_ms=found.expires_ms,
        approval="manual" if found.approval is Approval.MANUAL else "auto",
        used_by=found.used_by,
    )


def _state(found: Device | None) -> enrolment.DeviceState | None:
    match found.state if found else None:
        case DeviceState.PENDING:
            return "pending"
        case DeviceState.ENROLLED:
            return "enrolled"
        case DeviceState.REVOKED:
            return "revoked"
        case _:
            return None


def _view(desk: Desk, found: Device) -> DeviceView:
    desired = desk.registry.devices.desired(found.id)
    told = found.reported.slots if found.reported else {}
    totals = desk.registry.reports.totals(found.id)
    said = found.inventory
    return DeviceView(
        id=found.id,
        state=str(found.state),
        group=found.group,
        hardware=found.hardware,
        presence=found.presence or "unknown",
        last_seen_ms=found.last_seen_ms or 0,
        agent=said.agent if said else "",
        trains=bool(said and said.trains),
        evaluates=bool(said and said.evaluates),
        slots=tuple(_slot(desk, found, s, desired.get(s)) for s in sorted({*desired, *told})),
        quarantined_why=found.quarantined_why,
        reports_accepted=totals.accepted,
        reports_duplicates_ignored=totals.duplicates_ignored,
        reports_skipped=totals.skipped,
        reports_missing=totals.missing,
        system=said.system if said else "",
        arch=said.arch if said else "",
        python=said.python if said else "",
        runtimes=said.runtimes if said else (),
        cpu_flags=said.cpu_flags if said else (),
        apps=bool(said and said.apps),
        environments=said.environments if said else (),
    )


def _slot(desk: Desk, found: Device, slot: str, wanted: Assigned | None) -> SlotView:
    told = found.reported.slots.get(slot) if found.reported else None
    runs = told.current if told else None
    return SlotView(
        slot=slot,
        wanted=name_of(desk, wanted.digest) if wanted else None,
        wanted_digest=wanted.digest if wanted else None,
        runs=name_of(desk, runs) if runs else None,
        runs_digest=runs,
        phase=told.phase if told else "unknown",
        denied=tuple(name_of(desk, d) for d in told.denied) if told else (),
    )
