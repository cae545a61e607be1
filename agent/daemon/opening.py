"""What is read, and refused, before anything of the agent runs.

Rule 1: without a pinned root, credentials and an authority the agent does not start.
Rule 2: a new life is counted durably before it says anything; one that cannot be counted
        runs its models in silence.
"""

import os
from dataclasses import dataclass

from agent.config import Config
from agent.contract.endpoints import Endpoint
from agent.contract.proxy import Proxies
from agent.contract.topics import Topics
from agent.daemon.agenda import Agenda
from agent.daemon.host import AGENT_VERSION
from agent.daemon.moments import moment
from agent.daemon.reporting import Reporting, Signer
from agent.disk import Disk
from agent.errors import ConfigError, EnrolmentError
from agent.identity.certificate import restore_identity
from agent.identity.device_key import DeviceKey, Life, begin_life, find_key
from agent.identity.enrol import Credentials, load_credentials
from agent.identity.home import load_home
from agent.link.connection import Connection
from agent.link.inbox import Inbox
from agent.link.outbox import Outbox
from agent.link.patience import Pace
from agent.link.session import Broker
from agent.refusals import NoAuthorityError
from agent.update import trust


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """The state directory of an enrolled device, at the beginning of a life.

    Attributes:
        home: Where the fleet answered last; see ``daemon.finding``.

    """

    disk: Disk
    key: DeviceKey
    credentials: Credentials
    trust: trust.TrustState
    life: Life
    home: Endpoint


def open_state(config: Config) -> Opened:
    """Read the state directory and begin a new life; the caller holds its lock.

    Raises:
        EnrolmentError: The device is not enrolled.
        UnsignedError: There is no pinned root, so nobody is believed.
        NewerStateError: Something in it was written by a newer version; left untouched.
        StoreError: It cannot be read or written.

    """
    disk = Disk(config.agent.state_dir)
    key = find_key(disk)
    credentials = load_credentials(disk)
    if key is None or credentials is None:
        raise EnrolmentError(
            f"{config.agent.state_dir} holds no enrolled device: "
            "run `fieldfare-agent enrol FILE` with the file of `fieldfare token create` first"
        )
    state = trust.load(disk)
    if state is None or state.authority is None:
        raise NoAuthorityError(
            f"{config.agent.state_dir} has no pinned root: nobody may be believed;"
            " enrol this device again"
        )
    return Opened(
        disk=disk,
        key=key,
        credentials=credentials,
        trust=state,
        home=load_home(disk, credentials),
        life=begin_life(disk),
    )


def open_link(
    config: Config, opened: Opened, inbox: Inbox, agenda: Agenda
) -> tuple[Broker, Reporting]:
    """Return the connection, not yet started, and the way out over it.

    Raises:
        ConfigError: The broker's address cannot be one.
        NewerStateError, StoreError: The outbox cannot be read.

    """
    credentials, device = opened.credentials, opened.key.device
    topics = Topics(fleet=credentials.fleet, prefix=credentials.prefix)
    signer = Signer(opened.key.signing, device, opened.life.boot, AGENT_VERSION)
    broker = Broker(
        Connection(
            url=opened.home.url,
            ca=opened.home.ca,
            username=credentials.username,
            password=credentials.password,
            client_id=device,
            keepalive_seconds=config.broker.keepalive_seconds,
            session_expiry_seconds=config.broker.session_expiry_seconds,
            proxies=Proxies(config.link.proxy, os.environ),
            identity=restore_identity(opened.disk),
        ),
        topics,
        inbox,
        subscriptions=topics.heard_by_device(device),
        will_for=signer.will,
        pace=pace_of(config),
    )
    outbox = Outbox(
        opened.disk,
        device=device,
        boot=opened.life.boot,
        ready=opened.life.count,
        sign=signer.signature,
        moment=moment,
        quota_bytes=config.outbox.quota_bytes,
        resend_seconds=config.link.resend_seconds,
    )
    return broker, Reporting(outbox, signer, publish=broker.publish, agenda=agenda)


def local_connection(config: Config, device: str) -> Connection | None:
    """Return how the owner's own broker is reached, where there is one.

    Raises:
        ConfigError: Its address cannot be one, or its CA cannot be read.

    """
    wanted = config.local_broker
    if wanted is None:
        return None
    try:
        ca = wanted.ca.read_text() if wanted.ca else ""
    except (OSError, UnicodeDecodeError) as why:
        raise ConfigError(f"local_broker.ca {wanted.ca} cannot be read: {why}") from why
    return Connection(
        url=wanted.url,
        ca=ca,
        username=wanted.username,
        password=wanted.password,
        client_id=device,
        keepalive_seconds=config.broker.keepalive_seconds,
        session_expiry_seconds=0,
    )


def pace_of(config: Config) -> Pace:
    """Return how patient this device is with a broker."""
    return Pace(
        first_seconds=config.agent.startup_delay_seconds,
        shortest_seconds=config.link.reconnect_first_seconds,
        longest_seconds=config.link.reconnect_longest_seconds,
    )
