"""Where devices look for the fleet: the list in force, and who has shown to follow it.

Rule 1: a device has confirmed a list when it reports, signed, that it holds exactly this list
        and that a director answered it through an endpoint of it.
Rule 2: what leaves the list leaves nobody behind: an address or authority is struck only when
        every enrolled device has confirmed the list before, and none reaches the fleet by that
        address; or somebody says that the others may be lost.
"""

from collections.abc import Sequence
from hashlib import sha256

from msgspec import Struct

from agent.contract.broker_url import BrokerUrl
from agent.contract.endpoints import (
    ENDPOINTS_TARGET,
    Endpoint,
    EndpointReport,
    Endpoints,
    split_authorities,
)
from agent.errors import MalformedError
from fleet.config import FleetConfig
from fleet.errors import ConfigError, RefusedError
from fleet.registry.devices import Device, DeviceState
from fleet.service.desk import Desk

NAMED = 20
"""Devices that a refusal names one by one."""


class EndpointView(Struct, frozen=True, kw_only=True):
    """One endpoint of the list.

    Attributes:
        users: Enrolled devices that the fleet answered last at this address, as they say.

    """

    url: str
    cas: tuple[str, ...]
    fingerprints: tuple[str, ...]
    users: tuple[str, ...] = ()


class Straggler(Struct, frozen=True, kw_only=True):
    """An enrolled device that has not confirmed the list in force.

    Attributes:
        holds: Version of the list that it says it holds; 0 for none.
        url: Where the fleet answered it last, as it said; empty where it never said.

    """

    device: str
    presence: str
    last_seen_ms: int
    holds: int
    url: str


class EndpointsView(Struct, frozen=True, kw_only=True):
    """The list in force.

    Attributes:
        version: 0 where none was ever signed; devices then keep to what enrolment said.
        confirmed: How many enrolled devices follow it.
        stragglers: Those that have not shown to.

    """

    version: int
    endpoints: tuple[EndpointView, ...]
    confirmed: int
    stragglers: tuple[Straggler, ...]


def show(desk: Desk) -> EndpointsView:
    """Return the list in force, and who follows it."""
    held = desk.repository.published().endpoints
    enrolled = desk.registry.devices.listing(DeviceState.ENROLLED)
    content = desk.repository.target(ENDPOINTS_TARGET)
    digest = sha256(content).hexdigest() if content is not None else None
    late = tuple(_straggler(d) for d in enrolled if not has_confirmed(_report(d), digest))
    homes = {d.id: r.url for d in enrolled if (r := _report(d)) is not None}
    return EndpointsView(
        version=held.version if held else 0,
        endpoints=tuple(
            EndpointView(
                url=endpoint.url,
                cas=endpoint.cas,
                fingerprints=endpoint.fingerprints,
                users=tuple(device for device, url in homes.items() if url == endpoint.url),
            )
            for endpoint in in_force(desk.config, held)
        ),
        confirmed=len(enrolled) - len(late),
        stragglers=late,
    )


def in_force(config: FleetConfig, held: Endpoints | None) -> tuple[Endpoint, ...]:
    """Return what devices follow: the signed list, or what enrolment tells them.

    Raises:
        ConfigError: The broker's ``ca.pem`` does not parse.

    """
    if held is not None:
        return held.endpoints
    urls = [url for url in (config.broker.url, config.broker.wss_url) if url]
    cas = broker_authorities(config)
    return tuple(Endpoint(url=url, cas=cas if BrokerUrl.parse(url).secure else ()) for url in urls)


def broker_authorities(config: FleetConfig) -> tuple[str, ...]:
    """Return the authorities that the manager and enrolling devices believe, one by one.

    Raises:
        ConfigError: ``ca.pem`` does not parse.

    """
    try:
        return split_authorities(config.broker_ca())
    except MalformedError as why:
        raise ConfigError(f"{config.broker_folder / 'ca.pem'}: {why}") from why


def has_confirmed(report: EndpointReport | None, digest: str | None) -> bool:
    """Return whether a device that reports this follows the list with this digest."""
    return report is not None and digest is not None and report.listed and report.digest == digest


def require_nobody_left(view: EndpointsView, new: Sequence[Endpoint]) -> None:
    """Return if a new list leaves no enrolled device behind.

    Raises:
        RefusedError: It strikes an address or an authority that some of them may still need,
            or an address that some use, or shares nothing with the list in force.

    """
    struck = struck_by(view, new)
    enrolled = view.confirmed + len(view.stragglers)
    if not struck or not enrolled:
        return
    kept = {(e.url, mark) for e in new for mark in e.fingerprints or ("",)}
    before = {(e.url, mark) for e in view.endpoints for mark in e.fingerprints or ("",)}
    if not kept & before:
        raise RefusedError(
            "this list has nothing in common with the one in force: devices that are away could "
            "not find out. Publish both first; strike the old when all devices have confirmed. "
            "--force does it anyway"
        )
    late = [s.device for s in view.stragglers]
    if late:
        raise RefusedError(
            f"{_names(late)} of {enrolled} have not confirmed list version {view.version}, and "
            f"may need {', '.join(struck)} to find the fleet again. Wait for them, or revoke "
            "them; --force strikes it anyway, and whoever of them still needs it must then be "
            "enrolled anew, by hand"
        )
    gone = {e.url for e in view.endpoints} - {e.url for e in new}
    users = [device for e in view.endpoints if e.url in gone for device in e.users]
    if users:
        raise RefusedError(
            f"{_names(users)} of {enrolled} reach the fleet by {', '.join(sorted(gone))}, and what "
            "is listed before has not led them to it: see 'fieldfare fleet alarms'. --force "
            "strikes it anyway; they keep to it until another one answers, and no longer than it "
            "is there"
        )


def struck_by(view: EndpointsView, new: Sequence[Endpoint]) -> tuple[str, ...]:
    """Return in words what of the list in force a new one leaves out."""
    after = {e.url: set(e.fingerprints) for e in new}
    found = []
    for endpoint in view.endpoints:
        if endpoint.url not in after:
            found.append(endpoint.url)
        else:
            gone = [m for m in endpoint.fingerprints if m not in after[endpoint.url]]
            found += [f"authority {mark[:16]} at {endpoint.url}" for mark in gone]
    return tuple(found)


def _report(device: Device) -> EndpointReport | None:
    return device.reported.endpoint if device.reported else None


def _straggler(device: Device) -> Straggler:
    report = _report(device)
    return Straggler(
        device=device.id,
        presence=device.presence or "unknown",
        last_seen_ms=device.last_seen_ms or 0,
        holds=report.version if report else 0,
        url=report.url if report else "",
    )


def _names(devices: Sequence[str]) -> str:
    shown = ", ".join(devices[:NAMED])
    more = len(devices) - NAMED
    return f"{shown} and {more} more" if more > 0 else shown
