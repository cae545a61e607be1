"""Another authority for the broker that we run, in steps that leave no device behind.

    begin    a new authority and a server's certificate by it lie ready; devices are told to
             believe both
    switch   the broker shows the new certificate; by a bridge also those find it in order who
             have heard of nothing yet
    retire   devices believe the new authority alone; so does everybody else, and the bridge
             goes

Rule 1: each step may be repeated, and finishes what a crash cut off. ``ca-next.pem`` is written
        last at the beginning and removed first at the end, when all else is done: while it
        is there, a change is on, and so are the files that it needs.
Rule 2: nothing is shown by the broker that was not tried before, with the TLS library that
        devices use: for those who believe the new authority, and for those who do not yet.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from msgspec.structs import replace

from agent.contract.broker_url import BrokerUrl
from agent.contract.endpoints import Endpoint, fingerprint
from fleet.config import FleetConfig
from fleet.errors import ConfigError, ConflictError, NotFoundError, RefusedError
from fleet.ingest.authority import (
    Issued,
    make_authority,
    make_bridge,
    make_server,
    names_of,
    split_chain,
    why_not_believed,
    without_bridge,
)
from fleet.ingest.password_file import replace_file
from fleet.service.endpoints import EndpointsView, broker_authorities

NEXT_CA, NEXT_CA_KEY = "ca-next.pem", "ca-next.key"
NEXT_SERVER, NEXT_SERVER_KEY = "server-next.pem", "server-next.key"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rotation:
    """A change that is under way.

    Attributes:
        old: PEM texts of the authorities that are to go.
        new: That of the one that comes.
        server: What the broker shows from the switch on.
        switched: The broker's files are those already.
        stranded: Why who believes only ``old`` would refuse it; empty where a bridge leads.

    """

    old: tuple[str, ...]
    new: str
    server: Issued
    switched: bool
    stranded: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Brought:
    """PEM files of an authority of the operator's own, and of a server's certificate by it."""

    authority: Path
    certificate: Path
    key: Path


def find_rotation(config: FleetConfig) -> Rotation | None:
    """Return the change that is under way, or None.

    Raises:
        ConfigError: Its files are not in order.

    """
    folder = config.broker_folder
    if not (folder / NEXT_CA).exists():
        return None
    new = _read(folder / NEXT_CA)
    server = Issued(chain=_read(folder / NEXT_SERVER), key=_read(folder / NEXT_SERVER_KEY))
    known = fingerprint(new)
    old = tuple(pem for pem in broker_authorities(config) if fingerprint(pem) != known)
    shown = Issued(chain=_read(folder / "server.pem"), key=_read(folder / "server.key"))
    return Rotation(
        old=old,
        new=new,
        server=server,
        switched=shown == server,
        stranded=why_not_believed(server, _host(config), old) if old else "",
    )


def require_rotation(config: FleetConfig) -> Rotation:
    """Return the change that is under way.

    Raises:
        NotFoundError: There is none.
        ConfigError: Its files are not in order.

    """
    found = find_rotation(config)
    if found is None:
        raise NotFoundError(
            "no change of the broker's authority is under way: 'fieldfare broker rotate-ca begin'"
        )
    return found


def begin(config: FleetConfig, brought: Brought | None, now: datetime) -> Rotation:
    """Lay a new authority and a server's certificate ready; the broker shows what it showed.

    Raises:
        RefusedError: The broker has no TLS, or what is brought is not believed.
        ConflictError: A change is under way, and another is brought.
        ConfigError: A file cannot be read.

    """
    folder = config.broker_folder
    if config.broker.kind != "mosquitto" or not BrokerUrl.parse(config.broker.url).secure:
        raise RefusedError(f"{config.broker.url} has no TLS, and so no authority to change")
    found = find_rotation(config)
    if found is not None and brought is not None:
        raise ConflictError(
            "a change of the broker's authority is under way: finish it, then bring another"
        )
    if found is None:
        old = broker_authorities(config)
        if not old:
            raise RefusedError(f"{folder / 'ca.pem'} holds no authority that devices believe")
        new, server = _bring(brought) if brought else _make(folder, old, now)
        why = why_not_believed(server, _host(config), [new.chain])
        if why:
            raise RefusedError(f"the new certificate is not believed by the new authority: {why}")
        replace_file(folder / NEXT_SERVER_KEY, server.key)
        replace_file(folder / NEXT_SERVER, server.chain)
        if new.key:
            replace_file(folder / NEXT_CA_KEY, new.key)
        replace_file(folder / NEXT_CA, new.chain)
    rotation = require_rotation(config)
    replace_file(folder / "ca.pem", "".join((*rotation.old, rotation.new)))
    return rotation


def overlapping(view: EndpointsView, rotation: Rotation) -> tuple[Endpoint, ...]:
    """Return the list in force, with the new authority wherever an old one is believed."""
    return tuple(
        replace(endpoint, cas=(*endpoint.cas, rotation.new))
        if _believes(endpoint, rotation.old) and not _believes(endpoint, (rotation.new,))
        else endpoint
        for endpoint in _endpoints(view)
    )


def renewed(view: EndpointsView, rotation: Rotation) -> tuple[Endpoint, ...]:
    """Return the list in force, without the old authorities wherever the new one is believed."""
    gone = {fingerprint(pem) for pem in rotation.old}
    return tuple(
        replace(e, cas=tuple(pem for pem in e.cas if fingerprint(pem) not in gone))
        if _believes(e, (rotation.new,))
        else e
        for e in _endpoints(view)
    )


def switch(config: FleetConfig, view: EndpointsView, *, force: bool) -> Rotation:
    """Give the broker its new certificate; it shows it when it is told to read it again.

    Raises:
        NotFoundError: No change is under way.
        RefusedError: Devices are not told yet, or some would be stranded.

    """
    rotation = require_rotation(config)
    if overlapping(view, rotation) != _endpoints(view) or not view.version:
        raise RefusedError(
            "devices are not told of the new authority yet: 'fieldfare broker rotate-ca begin' "
            "again, and have its list of endpoints signed and published"
        )
    if rotation.stranded and view.stragglers and not force:
        late = ", ".join(s.device for s in view.stragglers)
        raise RefusedError(
            f"whoever believes only the old authority would refuse the new certificate "
            f"({rotation.stranded}), and {late} may: wait until 'fieldfare endpoint show' says "
            "that they have confirmed. --force switches anyway; who never heard of the new "
            "authority must then be enrolled anew, by hand"
        )
    folder = config.broker_folder
    replace_file(folder / "server.key", rotation.server.key)
    replace_file(folder / "server.pem", rotation.server.chain)
    return require_rotation(config)


def require_switched(rotation: Rotation) -> None:
    """Return if the broker shows the new certificate.

    Raises:
        RefusedError: It does not.

    """
    if not rotation.switched:
        raise RefusedError(
            "the broker still shows the old certificate: 'fieldfare broker rotate-ca switch' first"
        )


def require_not_switched(rotation: Rotation) -> None:
    """Return if the broker has never shown the new certificate.

    Raises:
        RefusedError: It does.

    """
    if rotation.switched:
        raise RefusedError(
            "the broker shows the new certificate already: go on with 'fieldfare broker rotate-ca "
            "retire'"
        )


def without_new(view: EndpointsView, rotation: Rotation) -> tuple[Endpoint, ...]:
    """Return the list in force, without the new authority wherever an old one is believed."""
    known = fingerprint(rotation.new)
    return tuple(
        replace(e, cas=tuple(pem for pem in e.cas if fingerprint(pem) != known))
        if _believes(e, rotation.old)
        else e
        for e in _endpoints(view)
    )


def abandon(config: FleetConfig, rotation: Rotation) -> None:
    """Forget the new authority, once no list names it any more."""
    folder = config.broker_folder
    replace_file(folder / "ca.pem", "".join(rotation.old))
    for name in (NEXT_CA, NEXT_CA_KEY, NEXT_SERVER_KEY, NEXT_SERVER):
        (folder / name).unlink(missing_ok=True)


def finish(config: FleetConfig, rotation: Rotation) -> None:
    """Forget the old authority, once no list names it any more."""
    folder = config.broker_folder
    chain = without_bridge(rotation.server.chain, rotation.old)
    replace_file(folder / NEXT_SERVER, chain)
    replace_file(folder / "server.pem", chain)
    if (folder / NEXT_CA_KEY).exists():
        replace_file(folder / "ca.key", _read(folder / NEXT_CA_KEY))
    replace_file(folder / "ca.pem", rotation.new)
    for name in (NEXT_CA, NEXT_CA_KEY, NEXT_SERVER_KEY, NEXT_SERVER):
        (folder / name).unlink(missing_ok=True)


def _make(folder: Path, old: Sequence[str], now: datetime) -> tuple[Issued, Issued]:
    """Return a new authority, and a server's certificate with a bridge behind it."""
    new = make_authority(now)
    server = make_server(new, names_of(_read(folder / "server.pem")), now)
    if (folder / "ca.key").exists():
        signer = Issued(chain=old[0], key=_read(folder / "ca.key"))
        server = Issued(chain=server.chain + make_bridge(new.chain, signer, now), key=server.key)
    return new, server


def _bring(brought: Brought) -> tuple[Issued, Issued]:
    authorities = split_chain(_read(brought.authority))
    if len(authorities) != 1:
        raise ConfigError(f"{brought.authority} holds {len(authorities)} certificates, not one")
    server = Issued(chain=_read(brought.certificate), key=_read(brought.key))
    return Issued(chain=authorities[0], key=""), server


def _endpoints(view: EndpointsView) -> tuple[Endpoint, ...]:
    return tuple(Endpoint(url=e.url, cas=e.cas) for e in view.endpoints)


def _believes(endpoint: Endpoint, authorities: Sequence[str]) -> bool:
    marks = {fingerprint(pem) for pem in authorities}
    return not marks.isdisjoint(endpoint.fingerprints)


def _host(config: FleetConfig) -> str:
    return BrokerUrl.parse(config.broker.url).host


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as why:
        raise ConfigError(f"{path} cannot be read: {why}") from why
