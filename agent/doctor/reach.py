"""How far the way to a broker is open: its name, its port, its certificate, our account.

Rule 1: ``knock`` says nothing to the broker; it may be used while the agent runs.
Rule 2: ``log_in`` takes the session of the device, without a Will: only where no agent
        runs. It settles no message, so that nothing queued is lost, and publishes one
        empty request, which the manager ignores.
"""

import socket
import ssl
from pathlib import Path
from time import monotonic
from typing import Final

from agent.contract.broker_url import BrokerUrl
from agent.contract.dial import dial
from agent.contract.proxy import STRAIGHT, Proxies
from agent.contract.topics import FRESH_REQUEST, Topics
from agent.doctor.facts import (
    Deaf,
    Mute,
    NoName,
    NoPort,
    NoProxy,
    NoTls,
    NotTried,
    Open,
    Refused,
    Way,
)
from agent.errors import ConfigError, LinkError, MalformedError, ProxyError
from agent.identity.enrol import Credentials
from agent.link.broker import Wire
from agent.link.connection import Connection, Outgoing

PATIENCE_SECONDS: Final = 10.0
FAR_PORT: Final = "its port is open"
FAR_TLS: Final = "its certificate is believed"
FAR_ALL: Final = "it takes us, our subscriptions and our messages"


def knock(
    url: str,
    ca: str,
    *,
    proxies: Proxies = STRAIGHT,
    timeout_seconds: float = PATIENCE_SECONDS,
) -> Way:
    """Resolve, connect and, with TLS, believe the certificate.

    Args:
        url: Address of the broker.
        ca: PEM text of the only authority believed; empty uses the system's.
        proxies: What may be between; then the proxy resolves the name.
        timeout_seconds: For each step.

    """
    try:
        address = BrokerUrl.parse(url)
        proxy = proxies.towards(address)
    except MalformedError as why:
        return NotTried(str(why))
    where = f"{address.host}:{address.port}"
    if proxy is not None:
        where = f"{where} through proxy {proxy.where}"
    try:
        if proxy is None:
            socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
    except OSError as why:
        return NoName(address.host, _reason(why))
    try:
        plain = dial(address, proxies, timeout_seconds)
    except ProxyError as why:
        return NoProxy(str(why))
    except OSError as why:
        return NoPort(where, _reason(why))
    with plain:
        if not address.secure:
            return Open(where, FAR_PORT)
        try:
            context = ssl.create_default_context(cadata=ca or None)
            with context.wrap_socket(plain, server_hostname=address.host):
                return Open(where, FAR_TLS)
        except ssl.SSLCertVerificationError as why:
            return NoTls(where, why.verify_code, why.verify_message)
        except OSError as why:
            return NoTls(where, 0, _reason(why))


def log_in(
    credentials: Credentials,
    session_expiry_seconds: int,
    proxies: Proxies = STRAIGHT,
    identity: Path | None = None,
) -> Way:
    """Go all the way in the name of the device, with its certificate if it has one."""
    way = knock(credentials.broker_url, credentials.broker_ca, proxies=proxies)
    if not isinstance(way, Open):
        return way
    topics = Topics(fleet=credentials.fleet, prefix=credentials.prefix)
    try:
        connection = Connection(
            url=credentials.broker_url,
            ca=credentials.broker_ca,
            username=credentials.username,
            password=credentials.password,
            client_id=credentials.device,
            session_expiry_seconds=session_expiry_seconds,
            connect_timeout_seconds=PATIENCE_SECONDS,
            proxies=proxies,
            identity=identity,
        )
        wire = Wire(
            connection,
            topics,
            epoch=1,
            subscriptions=topics.of_device(credentials.device),
            will=None,
            arrived=lambda _: None,
        )
    except (ConfigError, LinkError) as why:
        return NotTried(str(why))
    try:
        ended = _speak(wire, credentials.device, way)
    finally:
        wire.close()  # waits for the answer to what was published
    if isinstance(ended, Open) and wire.refusal is not None:
        return Mute(wire.refusal.why, wire.refusal.code)
    return ended


def _speak(wire: Wire, device: str, way: Open) -> Way:
    try:
        wire.open()
    except LinkError as why:
        return Refused(str(why), None)
    deadline = monotonic() + PATIENCE_SECONDS
    while not wire.subscribed and wire.end is None and monotonic() < deadline:
        wire.turn(0.2)
    if wire.end is not None:
        kind = Deaf if wire.welcome else Refused
        return kind(wire.end.why, wire.end.code)
    if not wire.subscribed:
        return Refused(f"the broker did not answer in {PATIENCE_SECONDS:.0f} s", None)
    wire.publish(Outgoing(address=FRESH_REQUEST.at(device), payload=b""))
    return Open(way.address, FAR_ALL)


def _reason(why: OSError) -> str:
    return why.strerror or str(why) or type(why).__name__
