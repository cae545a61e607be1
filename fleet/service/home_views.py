"""The fleet as Home Assistant sees it: from the registry to what the bridge keeps there.

Rule 1: it is read on the manager's thread, now and then, and handed over whole.
Rule 2: an *update* shows what the fleet wants of a device. It cannot be installed from there:
        nobody signs there, and a rollout decides when a device gets it.
"""

import logging
from collections.abc import Callable
from functools import cache
from importlib.metadata import version as version_of
from typing import Final

from agent.contract.home_assistant import HomeDevice, HomeSlot, bridge_origin, discovery
from agent.contract.home_states import encode_state, health_of, trouble_of, update_state
from agent.contract.owner_topics import OFFLINE, ONLINE, OwnerTopics
from agent.contract.telemetry import Window
from agent.errors import AgentError
from fleet.config import FleetConfig
from fleet.config_home import PASSWORD_FILE
from fleet.errors import ConfigError
from fleet.ingest.home_bridge import HomeBridge, Shown, bridge_topic
from fleet.ingest.mail import Connection
from fleet.registry.devices import Device, DeviceState
from fleet.registry.models import Published
from fleet.rollout.selector import parse_selector, select
from fleet.service.desk import Desk

LOG = logging.getLogger(__name__)
MAX_DEVICES: Final = 500
"""A house, or a plant; whoever has more selects some."""


def open_bridge(config: FleetConfig) -> HomeBridge | None:
    """Return the bridge, not yet started, where one is wanted.

    Raises:
        ConfigError: The authority or the password cannot be read, or the selector makes no
            sense.

    """
    home = config.home_assistant
    if not home.url:
        return None
    parse_selector(home.devices)
    password = config.secret(PASSWORD_FILE) if home.username else None
    if home.username and password is None:
        raise ConfigError(
            f"home_assistant.username is {home.username!r}, and {config.broker_folder}/"
            f"{PASSWORD_FILE} does not exist: write the password into it and chmod 600 it"
        )
    try:
        ca = (config.home / home.ca).read_text() if home.ca else ""
    except (OSError, UnicodeDecodeError) as why:
        raise ConfigError(f"home_assistant.ca {home.ca} cannot be read: {why}") from why
    return HomeBridge(
        Connection(
            url=home.url,
            ca=ca,
            username=home.username or None,
            password=password,
            client_id=f"fieldfare-{config.fleet}-{config.manager}",
            session_expiry_seconds=0,
        ),
        prefix=home.prefix,
        discovery=home.discovery,
        origin=bridge_origin(config.fleet),
        every_seconds=home.every_seconds,
    )


def shown(desk: Desk) -> tuple[Shown, ...]:
    """Return every selected device as it is now."""
    home = desk.config.home_assistant
    enrolled = desk.registry.devices.listing(DeviceState.ENROLLED)
    selected = select(parse_selector(home.devices), enrolled)
    if len(selected) > MAX_DEVICES:
        LOG.warning(
            "home-assistant devices=%d shown=%d: select fewer in home_assistant.devices",
            len(selected),
            MAX_DEVICES,
        )
    find = cache(desk.registry.models.find)  # most devices run the same
    return tuple(_show(desk, device, find) for device in selected[:MAX_DEVICES])


def _show(desk: Desk, device: Device, find: Callable[[str], Published | None]) -> Shown:
    prefix = desk.config.home_assistant.prefix
    topics = OwnerTopics(prefix=prefix, device=device.id)
    told = device.reported.slots if device.reported else {}
    running = {
        slot: find(report.current) if report.current else None for slot, report in told.items()
    }
    states = {topics.status: ONLINE if device.presence == "online" else OFFLINE}
    desired = desk.registry.devices.desired(device.id)
    for slot, runs in running.items():
        report = told[slot]
        window = _window(desk, device.id, slot, report.current)
        why = device.quarantined_why or trouble_of(window)
        version = None if runs is None else runs.release.version
        states[topics.health(slot)] = encode_state(health_of(version, window, why))
        wish = desired.get(slot)
        refused = wish is None or wish.digest in report.denied
        wanted = None if wish is None or refused else find(wish.digest)
        states[topics.update(slot)] = update_state(
            installed=version,
            latest=None if wanted is None else wanted.release.version,
            title=slot if runs is None else runs.release.family,
            in_progress=report.phase != "idle",
        )
    return Shown(
        device=device.id,
        discovery=discovery(
            HomeDevice(
                topics=topics,
                name=f"{device.hardware} {device.id}",
                model=device.hardware,
                version=device.inventory.agent if device.inventory else "",
                slots=tuple(
                    HomeSlot(slot=slot, classes=_classes(runs)) for slot, runs in running.items()
                ),
                origin=bridge_origin(desk.config.fleet),
                origin_version=version_of("fieldfare"),
                above=bridge_topic(prefix),
            )
        ),
        states=states,
    )


def _classes(runs: Published | None) -> tuple[str, ...]:
    return runs.release.classes if runs else ()


def _window(desk: Desk, device: str, slot: str, release: str | None) -> Window | None:
    """Return the newest window of the release that runs, if it can be shown."""
    window = desk.registry.reports.newest_window(device, slot)
    if window is None or window.release != release:
        return None
    try:
        health_of(None, window, "")
    except AgentError:  # a device may say anything; what is no histogram is not shown
        return None
    return window
