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

from nacl.exceptions import CryptoError
from nacl.public import SealedBox
from nacl.signing import SigningKey, VerifyKey

from agent.contract.belief import ENROL_CONTEXT
from agent.contract.codec import Versioned, decode, encode
from agent.contract.envelope import open_document
from agent.contract.limits import MAX_METADATA_BYTES, PROTOCOL
from agent.contract.manifest import Label, Name, Text
from agent.contract.messages import (
    Authority,
    EnrolmentFile,
    EnrolReply,
    EnrolRequest,
    SealedReply,
    SignedRequest,
)
from agent.contract.topics import ENROL_REPLY, ENROL_REQUEST, Address
from agent.disk import Disk, read_versioned
from agent.errors import (
    ConfigError,
    ContractError,
    EnrolmentError,
    MismatchError,
    UnsignedError,
)
from agent.identity.device_key import DeviceKey

CREDENTIALS = "enrolled.json"
_MAX_FILE_BYTES = 64 * 1024


class Credentials(Versioned, frozen=True, kw_only=True):
    """``enrolled.json``: where the fleet is and how to log in. Secret.

    Attributes:
        device, fleet: Who we are, and to whom we belong.
        prefix: Topic prefix of the fleet.
        broker_url: ``mqtt://`` or ``mqtts://`` address of the device listener.
        broker_ca: PEM of the broker's CA; empty for ``mqtt://``.
        username, password: Our own.

    """

    device: Name
    fleet: Name
    prefix: Text = PROTOCOL
    broker_url: Text
    broker_ca: str = ""
    username: Label
    password: Label


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
    raise NotImplementedError


def build_request(
    file: EnrolmentFile, key: DeviceKey, nonce: str, *, hardware: str, agent: str = ""
) -> Asking:
    """Return a request to join.

    Args:
        file: The enrolment file.
        key: This device's key.
        nonce: 32 hex digits, new for each request.
        hardware: This device's hardware name.
        agent: Version of the agent.

    """
    raise NotImplementedError


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
    raise NotImplementedError


def accept_reply(reply: EnrolReply, file: EnrolmentFile) -> Credentials | None:
    """Return our credentials, or None while an operator has yet to approve us.

    Raises:
        EnrolmentError: The fleet refused us, or enrolled us without credentials.

    """
    raise NotImplementedError


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
