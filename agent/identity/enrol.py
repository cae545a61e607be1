"""How a stranger becomes a device of the fleet.

Rule 1: without a pinned root the agent believes nobody: no enrolment file, no start.
Rule 2: the request is signed by the device's own key and by the token, which is a key
        too; the fleet never holds the token's secret.
Rule 3: the reply is sealed to this device, and believed only after the metadata inside
        was verified from the pinned root and names the enrolment key that signed it.

Pure but for the credentials file; the exchange itself is the link's.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from nacl.exceptions import CryptoError
from nacl.public import SealedBox
from nacl.signing import SigningKey, VerifyKey

from agent.contract.authority import Authority
from agent.contract.belief import ENROL_CONTEXT
from agent.contract.broker_url import BrokerUrl
from agent.contract.codec import Versioned, decode, encode
from agent.contract.enrolment import (
    EnrolmentFile,
    EnrolReply,
    EnrolRequest,
    SealedReply,
    SignedRequest,
)
from agent.contract.envelope import open_document
from agent.contract.limits import LAST_MS, MAX_PAYLOAD_BYTES, PROTOCOL
from agent.contract.manifest import Label, Name, Text
from agent.contract.topics import ENROL_REPLY, ENROL_REQUEST, Address
from agent.disk import Disk, read_versioned
from agent.errors import (
    ConfigError,
    ContractError,
    EnrolmentError,
    EnrolmentRefusedError,
    MalformedError,
    TokenExpiredError,
)
from agent.identity.device_key import DeviceKey
from agent.refusals import (
    NotSealedError,
    OversizedError,
    WrongDeviceError,
    WrongFleetError,
)

CREDENTIALS = "enrolled.json"
_MAX_FILE_BYTES = 64 * 1024


class Credentials(Versioned, frozen=True, kw_only=True):
    """``enrolled.json``: where the fleet is and how to log in. Secret.

    Attributes:
        device, fleet: Who we are, and to whom we belong.
        prefix: Topic prefix of the fleet.
        broker_url: ``mqtt://``, ``mqtts://`` or ``wss://`` address of the device listener.
        broker_ca: PEM of the broker's CA; empty for ``mqtt://``.
        username, password: Our own; None where the broker keeps no accounts.

    """

    device: Name
    fleet: Name
    prefix: Text = PROTOCOL
    broker_url: Text
    broker_ca: str = ""
    username: Label | None = None
    password: Label | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Asking:
    """One request, ready to publish.

    Attributes:
        request, reply: Where it goes, and where its answer comes.
        payload: The ``SignedRequest``.

    """

    request: Address
    reply: Address
    payload: bytes


def read_enrolment_file(content: bytes, *, now_ms: int) -> EnrolmentFile:
    """Read the file that ``fieldfare token create`` wrote.

    Raises:
        ConfigError: It is not an enrolment file, or pins no root.
        EnrolmentError: Its token has run out.

    """
    if not content.strip():
        raise ConfigError("the enrolment file is empty: create a token and copy its file again")
    try:
        file = decode(EnrolmentFile, content, limit=_MAX_FILE_BYTES)
    except ContractError as why:
        pinned = "" if b'"root_digest"' in content else ", it pins no root"
        raise ConfigError(f"this is not an enrolment file{pinned}: {why}") from why
    try:
        enrolment = BrokerUrl.parse(file.enrol_url)
    except MalformedError as why:
        raise ConfigError(f"enrol_url: {why}") from why
    if enrolment.secure and not file.broker_ca:
        raise ConfigError("the enrolment file has an mqtts:// address but no broker_ca")
    if now_ms >= file.expires_ms:
        raise TokenExpiredError(
            f"the token ran out at {_day(file.expires_ms)}, this device's clock says"
            f" {_day(now_ms)}: create another, or set the clock"
        )
    return file


def build_request(
    file: EnrolmentFile,
    key: DeviceKey,
    nonce: str,
    *,
    hardware: str,
    agent: str = "",
    tls_key: VerifyKey | None = None,
) -> Asking:
    """Return a request to join.

    Args:
        file: The enrolment file.
        key: This device's key.
        nonce: 32 hex digits, new for each request.
        hardware: This device's hardware name.
        agent: Version of the agent.
        tls_key: To be certified for the broker, where the fleet does that.

    """
    token = SigningKey(bytes.fromhex(file.token))
    request = EnrolRequest(
        fleet=file.fleet,
        nonce=nonce,
        device_key=bytes(key.public).hex(),
        token_key=bytes(token.verify_key).hex(),
        hardware=hardware,
        agent=agent,
        tls_key=bytes(tls_key).hex() if tls_key else None,
    )
    text = encode(request)
    signed = ENROL_CONTEXT + text
    payload = encode(
        SignedRequest(
            body=text.decode(),
            device_sig=key.signing.sign(signed).signature.hex(),
            token_sig=token.sign(signed).signature.hex(),
        )
    )
    return Asking(request=ENROL_REQUEST.at(nonce), reply=ENROL_REPLY.at(nonce), payload=payload)


def open_reply(
    payload: bytes,
    *,
    key: DeviceKey,
    nonce: str,
    fleet: str,
    verify_chain: Callable[[dict[str, bytes]], Authority],
) -> EnrolReply:
    """Read the reply to our request; its status may also be pending or refused.

    Args:
        payload: What came on the reply topic.
        key: This device's key.
        nonce: The one of the request.
        fleet: The fleet of the enrolment file.
        verify_chain: Verifies metadata files from the pinned root and returns the
            authority they carry; called before anything else is believed.

    Raises:
        MalformedError: It does not parse.
        UnsignedError: It is not sealed to us, or no enrolment key signed it.
        MismatchError: It is for another device, request or fleet.
        TrustError: ``verify_chain`` did not believe the metadata.

    """
    if len(payload) > MAX_PAYLOAD_BYTES:
        raise OversizedError(f"enrolment reply of {len(payload)} bytes is over {MAX_PAYLOAD_BYTES}")
    try:
        text = SealedBox(key.signing.to_curve25519_private_key()).decrypt(payload)
    except (CryptoError, ValueError, TypeError) as why:
        raise NotSealedError("the enrolment reply is not sealed to this device") from why
    sealed = decode(SealedReply, text)
    authority = verify_chain(sealed.metadata)
    enrolment_keys = [VerifyKey(bytes.fromhex(public)) for public in authority.enrolment_keys]
    topic = ENROL_REPLY.at(nonce).logical
    reply = decode(EnrolReply, open_document(enrolment_keys, topic, sealed.document.encode()))
    if (reply.device, reply.nonce) != (key.device, nonce):
        raise WrongDeviceError(f"the enrolment reply is for {reply.device}, this is {key.device}")
    if not reply.fleet == authority.fleet == fleet:
        raise WrongFleetError(f"the enrolment reply is of fleet {reply.fleet}, asked was {fleet}")
    return reply


def accept_reply(reply: EnrolReply, file: EnrolmentFile) -> Credentials | None:
    """Return our credentials, or None while an operator has yet to approve us.

    Raises:
        EnrolmentError: The fleet refused us, or enrolled us without credentials.

    """
    match reply.status:
        case "pending":
            return None
        case "enrolled" if _can_log_in(reply):
            return Credentials(
                device=reply.device,
                fleet=reply.fleet,
                prefix=file.prefix,
                broker_url=_way_taken(reply, file),
                broker_ca=reply.broker_ca,
                username=reply.username,
                password=reply.password,
            )
        case "enrolled":
            raise EnrolmentError("the fleet enrolled this device without telling it how to log in")
        case _:
            raise EnrolmentRefusedError(
                f"fleet {reply.fleet} refused: {reply.why or 'it gave no reason'}"
            )


def _way_taken(reply: EnrolReply, file: EnrolmentFile) -> str:
    """Return the address over WebSocket for whoever came that way and is told one."""
    came_so = BrokerUrl.parse(file.enrol_url).path is not None
    return reply.wss_url if came_so and reply.wss_url else reply.broker_url


def _can_log_in(reply: EnrolReply) -> bool:
    try:
        BrokerUrl.parse(reply.broker_url)
        if reply.wss_url:
            BrokerUrl.parse(reply.wss_url)
    except MalformedError:
        return False
    return (reply.username is None) == (reply.password is None)


def _day(moment_ms: int) -> str:
    seconds = min(moment_ms, LAST_MS) // 1000
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")


def load_credentials(disk: Disk) -> Credentials | None:
    """Return our credentials, or None where this device is not enrolled.

    Raises:
        NewerStateError: A newer agent wrote them.
        StoreError: They cannot be read.

    """
    return read_versioned(disk, CREDENTIALS, Credentials)


def save_credentials(disk: Disk, credentials: Credentials) -> None:
    """Keep our credentials.

    Raises:
        StoreError: They cannot be written.

    """
    disk.replace(CREDENTIALS, encode(credentials))
