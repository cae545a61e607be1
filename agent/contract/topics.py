"""Where each kind of message travels. Topic strings are spelled only here.

Rule 1: a ``Channel`` is one row of the topic table: who writes, how it is delivered,
        who signs. Broker permissions and the reference in ``docs/`` are made from it.
Rule 2: an ``Address`` is one channel of one device (or group, manager, nonce).
Rule 3: ``Topics.write`` and ``Topics.read`` are each other's inverse.
Rule 4: signatures cover the *logical* topic, without prefix and fleet, so that a
        bridge that moves the tree breaks no signature.
"""

from dataclasses import dataclass
from enum import StrEnum

from agent.contract.limits import PROTOCOL, require_name
from agent.errors import MalformedError

MAX_TOPIC_CHARACTERS = 256
EVERYBODY = "all"
"""The group of every device of the fleet."""


class Way(StrEnum):
    """Which way a message flows, and so who may write it."""

    UP = "up"  # one device writes, the manager reads
    DOWN = "dn"  # the manager writes, one device reads
    GROUP = "g"  # the manager writes, every device of the group reads
    SERVER = "srv"  # the manager speaks of itself
    ENROL = "enrol"  # strangers ask, on a listener of their own


@dataclass(frozen=True, slots=True, kw_only=True)
class Channel:
    """One row of the topic table.

    Attributes:
        way: Direction.
        path: What stands after the owner; ``{}`` is one variable segment.
        qos: 0 or 1; 2 is used nowhere.
        retain: Whether the broker keeps the last message.
        expiry_seconds: MQTT 5 message expiry; None keeps it.
        signer: Who signs the content.
        about: One clause for the reference.

    """

    way: Way
    path: str
    qos: int
    retain: bool = False
    expiry_seconds: int | None = None
    signer: str = "device"
    about: str

    def at(self, who: str, name: str | None = None) -> "Address":
        """Return the address of this channel for one owner."""
        return Address(channel=self, who=who, name=name)


PRESENCE = Channel(
    way=Way.UP,
    path="presence",
    qos=1,
    retain=True,
    about="online, offline or sleeping; also the Will",
)
INVENTORY = Channel(
    way=Way.UP, path="inventory", qos=1, retain=True, about="hardware, runtimes and abilities"
)
REPORTED = Channel(
    way=Way.UP, path="reported", qos=1, retain=True, about="what each slot really runs"
)
TELEMETRY = Channel(
    way=Way.UP, path="tele/{}", qos=1, expiry_seconds=86_400, about="windows of behaviour, batched"
)
PREDICTION = Channel(
    way=Way.UP,
    path="prediction/{}",
    qos=0,
    signer="nobody",
    about="predictions for integrations, opt-in",
)
EVENT = Channel(
    way=Way.UP,
    path="evt/{}",
    qos=1,
    expiry_seconds=604_800,
    about="something happened, unique on its id",
)
FRESH_REQUEST = Channel(
    way=Way.UP, path="fresh", qos=1, expiry_seconds=60, about="a single-use nonce"
)
META_REQUEST = Channel(
    way=Way.UP, path="meta/req", qos=0, expiry_seconds=30, about="asks for trust metadata"
)
ARTIFACT_REQUEST = Channel(
    way=Way.UP, path="art/req", qos=0, expiry_seconds=30, about="asks for ranges of chunks"
)
GRANT_REQUEST = Channel(
    way=Way.UP,
    path="grant",
    qos=0,
    expiry_seconds=30,
    about="asks for leave to fetch an artifact over HTTP",
)
ROUND_ANSWER = Channel(
    way=Way.UP,
    path="round/{}",
    qos=1,
    expiry_seconds=3600,
    about="an answer to an offer, or an update",
)
ROUND_CHUNK = Channel(
    way=Way.UP,
    path="put/{}",
    qos=0,
    expiry_seconds=30,
    signer="answer",
    about="chunks of an answer",
)

FRESH = Channel(
    way=Way.DOWN,
    path="fresh",
    qos=1,
    expiry_seconds=60,
    signer="director",
    about="signed time, sequence and digest",
)
META = Channel(
    way=Way.DOWN,
    path="meta",
    qos=0,
    expiry_seconds=30,
    signer="TUF itself",
    about="trust metadata in pieces",
)
ARTIFACT = Channel(
    way=Way.DOWN, path="art/{}", qos=0, expiry_seconds=30, signer="manifest", about="binary chunks"
)
ARTIFACT_REFUSAL = Channel(
    way=Way.DOWN,
    path="refusal/{}",
    qos=0,
    expiry_seconds=30,
    signer="nobody",
    about="an artifact that is not kept here; ends one try, never a wish",
)
GRANT = Channel(
    way=Way.DOWN,
    path="grant",
    qos=0,
    expiry_seconds=30,
    signer="director",
    about="leave to fetch an artifact over HTTP, or why not",
)
ASSIGNMENT = Channel(
    way=Way.DOWN,
    path="assignment",
    qos=1,
    retain=True,
    signer="director",
    about="the desired state, monotonic",
)
ROUND_OFFER = Channel(
    way=Way.DOWN,
    path="round/{}",
    qos=1,
    expiry_seconds=3600,
    signer="director",
    about="a task of a federated round",
)
UPLOAD_REQUEST = Channel(
    way=Way.DOWN,
    path="upload/{}",
    qos=0,
    expiry_seconds=30,
    signer="nobody",
    about="leave to send chunks of an answer",
)
ACK = Channel(
    way=Way.DOWN,
    path="ack",
    qos=1,
    expiry_seconds=60,
    signer="director",
    about="reports that are safely recorded",
)

HINT = Channel(
    way=Way.GROUP,
    path="hint",
    qos=0,
    expiry_seconds=60,
    signer="nobody",
    about="a newer revision exists",
)
ARTIFACT_CAST = Channel(
    way=Way.GROUP,
    path="art/{}",
    qos=0,
    expiry_seconds=30,
    signer="manifest",
    about="chunks for many devices at once; heard only while fetching",
)
MANAGER_PRESENCE = Channel(
    way=Way.SERVER,
    path="presence",
    qos=1,
    retain=True,
    signer="nobody",
    about="the manager's epoch; also its Will",
)
ENROL_REQUEST = Channel(
    way=Way.ENROL,
    path="",
    qos=1,
    expiry_seconds=60,
    signer="token and device",
    about="a stranger asks to join",
)
ENROL_REPLY = Channel(
    way=Way.ENROL,
    path="",
    qos=1,
    expiry_seconds=60,
    signer="enrolment key",
    about="sealed to the asking device",
)

CHANNELS = tuple(
    row for row in tuple(globals().values()) if isinstance(row, Channel) and row.way != Way.ENROL
)
"""Every channel that is addressed by an owner; enrolment is addressed by a nonce."""

_BY_PATH = {(str(c.way), c.path.partition("/")[0], c.path.count("/")): c for c in CHANNELS}


@dataclass(frozen=True, slots=True)
class Address:
    """One channel of one owner: a device, a group, a manager, or an enrolment nonce.

    Raises:
        MalformedError: Owner or name could not stand in a topic.

    """

    channel: Channel
    who: str
    name: str | None = None

    def __post_init__(self) -> None:
        require_name(self.who, "owner")
        if ("{}" in self.channel.path) != (self.name is not None):
            raise MalformedError(f"channel {self.channel.path!r} does not fit name {self.name!r}")
        if self.name is not None:
            require_name(self.name, "channel name")

    @property
    def logical(self) -> str:
        """The topic without prefix and fleet: what signatures cover."""
        if self.channel is ENROL_REQUEST:
            return f"enrol/req/{self.who}"
        if self.channel is ENROL_REPLY:
            return f"enrol/rsp/{self.who}"
        path = self.channel.path.replace("{}", self.name or "")
        return f"{self.channel.way}/{self.who}/{path}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Topics:
    """The tree of one fleet below one prefix.

    >>> topics = Topics(fleet="demo")
    >>> topics.write(TELEMETRY.at("d-7", "windows"))
    'ff/v1/demo/up/d-7/tele/windows'
    >>> topics.read('ff/v1/demo/up/d-7/tele/windows') == TELEMETRY.at("d-7", "windows")
    True
    """

    fleet: str
    prefix: str = PROTOCOL

    def __post_init__(self) -> None:
        require_name(self.fleet, "fleet")
        if not self.prefix or any(c in self.prefix for c in "+#$\0") or self.prefix.count("/") > 1:
            raise MalformedError(f"topic prefix {self.prefix!r} is not one or two plain segments")

    @property
    def root(self) -> str:
        """Everything of this fleet lies below this."""
        return f"{self.prefix}/{self.fleet}"

    def write(self, address: Address) -> str:
        """Return the topic string of an address."""
        return f"{self.root}/{address.logical}"

    def read(self, topic: str) -> Address:
        """Read a topic back.

        Raises:
            MalformedError: It is not one of this fleet's topics.

        """
        head = f"{self.root}/"
        segments = topic[len(head) :].split("/")
        if len(topic) > MAX_TOPIC_CHARACTERS or not topic.startswith(head) or len(segments) < 3:  # noqa: PLR2004 - direction, owner, channel
            raise MalformedError(f"not one of our topics: {topic[:MAX_TOPIC_CHARACTERS]!r}")
        way, who, first, *rest = segments
        if way == Way.ENROL and not rest and who in {"req", "rsp"}:
            return (ENROL_REQUEST if who == "req" else ENROL_REPLY).at(first)
        channel = _BY_PATH.get((way, first, len(rest)))
        if channel is None:
            raise MalformedError(f"not one of our topics: {topic!r}")
        name = rest[0] if rest and "{}" in channel.path else None
        address = channel.at(who, name)
        if address.logical != topic[len(head) :]:
            raise MalformedError(f"not one of our topics: {topic!r}")
        return address

    def of_device(self, device: str) -> tuple[str, ...]:
        """Return the filters of all that one agent may read."""
        return (
            f"{self.root}/{Way.DOWN}/{device}/#",
            f"{self.root}/{Way.GROUP}/#",
            f"{self.root}/{Way.SERVER}/+/presence",
        )

    def heard_by_device(self, device: str) -> tuple[str, ...]:
        """Return the filters that one agent subscribes to for good.

        Of the groups' topics these are the hints; chunks for many are subscribed to while
        they are wanted, so that they cost nobody else anything.
        """
        own, _groups, managers = self.of_device(device)
        return (own, f"{self.root}/{Way.GROUP}/+/{HINT.path}", managers)

    def of_manager(self) -> tuple[str, ...]:
        """Return the filters that the manager subscribes to."""
        return (f"{self.root}/{Way.UP}/#", f"{self.root}/{Way.ENROL}/req/+")
