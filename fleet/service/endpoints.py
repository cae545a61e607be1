"""Where devices look for the fleet: the list in force, and who has shown to follow it.

Rule 1: a device has confirmed a list when it reports, signed, that it holds exactly this list
        and that a director answered it through an endpoint of it.
Rule 2: what leaves the list leaves nobody behind: an address or authority is struck only when
        every enrolled device has confirmed the list before, or somebody says that the others
        may be lost.
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
    """One endpoint of the list."""

    url: str
    cas: tuple[str, ...]
    fingerprints: tuple[str, ...]
    used_by: int = 0


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
    used = [r for d in enrolled if (r := _report(d)) is not None]
    return EndpointsView(
        version=held.version if held else 0,
        endpoints=tuple(
            EndpointView(
                url=endpoint.url,
                cas=endpoint.cas,
                fingerprints=endpoint.fingerprints,
                used_by=sum((r.url, r.cas) == (endpoint.url, endpoint.fingerprints) for r in used),
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
            or shares nothing with the list in force.

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
    if view.stragglers:
        raise RefusedError(
            f"{_names(view.stragglers)} of {enrolled} have not confirmed list version "
            f"{view.version}, and may need {', '.join(struck)} to find the fleet again. Wait for "
            "them, or revoke them; --force strikes it anyway, and whoever of them still needs it "
            "must then be enrolled anew, by hand"
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


def _names(stragglers: Sequence[Straggler]) -> str:
    shown = ", ".join(s.device for s in stragglers[:NAMED])
    more = len(stragglers) - NAMED
    return f"{shown} and {more} more" if more > 0 else shown
