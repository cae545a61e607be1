"""How Home Assistant comes to know a device: one discovery message, over MQTT.

Written by the device itself on its owner's broker, or by the manager's bridge; the ids are the
same, so that what Home Assistant has recorded goes on when the one takes over from the other.

Rule 1: names of members are written out, never abbreviated, and only those that Home
        Assistant documents are there.
Rule 2: what a template asks for is a member of the state in ``home_states``.
Rule 3: an *update* can be looked at and not installed: Home Assistant cannot sign.

Home Assistant, "MQTT", device discovery; "MQTT Sensor", "MQTT Binary sensor", "MQTT Update".
"""

from dataclasses import dataclass
from typing import Final

import msgspec
from msgspec import Struct

from agent.contract.owner_topics import OFFLINE, ONLINE, OwnerTopics

DISCOVERY: Final = "homeassistant"
"""The prefix that Home Assistant listens to unless told otherwise."""
AGENT_ORIGIN: Final = "fieldfare-agent"
MANUFACTURER: Final = "Fieldfare"
_OF_CLASSES: Final = ("prediction", "confidence", "drift")


@dataclass(frozen=True, slots=True, kw_only=True)
class HomeSlot:
    """One slot as it is shown.

    Attributes:
        slot: Its name, which is also that of the sensor for its prediction.
        classes: What it can predict; without any there is no sensor for a prediction.
        had_classes: Whether there was one, which is taken away then.
        expire_seconds: Without news for so long it is shown as unavailable; 0 never.

    """

    slot: str
    classes: tuple[str, ...] = ()
    had_classes: bool = False
    expire_seconds: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class HomeDevice:
    """One device as it is shown.

    Attributes:
        topics: Where its states are.
        name: For people.
        model: Its hardware.
        version: Of the agent on it.
        slots: What it runs.
        origin: Who writes this.
        origin_version: The version of that program.
        above: Topic of the status of whoever writes for it; the device is unavailable where
            that says offline.

    """

    topics: OwnerTopics
    name: str
    model: str
    version: str
    slots: tuple[HomeSlot, ...]
    origin: str
    origin_version: str
    above: str | None = None

    @property
    def id(self) -> str:
        """The device's id."""
        return self.topics.device


class _Device(Struct, frozen=True, kw_only=True, omit_defaults=True):
    identifiers: tuple[str, ...]
    name: str
    manufacturer: str = ""
    model: str = ""
    sw_version: str = ""
    serial_number: str = ""


class _Origin(Struct, frozen=True, kw_only=True):
    name: str
    sw_version: str


class _Availability(Struct, frozen=True, kw_only=True, omit_defaults=True):
    topic: str
    payload_available: str = ""
    payload_not_available: str = ""


class _Component(Struct, frozen=True, kw_only=True, omit_defaults=True):
    platform: str
    unique_id: str
    name: str
    state_topic: str
    value_template: str = ""
    availability: tuple[_Availability, ...] = ()
    availability_mode: str = ""
    device_class: str = ""
    entity_category: str = ""
    expire_after: int = 0
    options: tuple[str, ...] = ()
    payload_off: str = ""
    payload_on: str = ""
    state_class: str = ""
    suggested_display_precision: int = -1
    title: str = ""
    unit_of_measurement: str = ""


class _Gone(Struct, frozen=True):
    """A component that is taken away: its platform, and nothing else."""

    platform: str


class _Discovery(Struct, frozen=True, kw_only=True):
    device: _Device
    origin: _Origin
    components: dict[str, _Component | _Gone]


class _OriginOnly(Struct, frozen=True, kw_only=True):
    origin: _Origin


class _StateTopic(Struct, frozen=True):
    state_topic: str = ""


class _TopicsOnly(Struct, frozen=True):
    components: dict[str, _StateTopic] = {}


def config_topic(prefix: str, device: str) -> str:
    """Return where a device is announced; retained, and empty to take it away.

    >>> config_topic("homeassistant", "d-abc")
    'homeassistant/device/d-abc/config'
    """
    return f"{prefix}/device/{device}/config"


def status_topic(prefix: str) -> str:
    """Return where Home Assistant says that it is ``online``."""
    return f"{prefix}/status"


def bridge_origin(fleet: str) -> str:
    """Return the name that a fleet's manager announces devices by."""
    return f"fieldfare of {fleet}"


def device_of(prefix: str, topic: str) -> str | None:
    """Return the device that a topic announces; the inverse of ``config_topic``."""
    head, tail = f"{prefix}/device/", "/config"
    if not (topic.startswith(head) and topic.endswith(tail)):
        return None
    return topic[len(head) : -len(tail)] or None


def origin_of(payload: bytes) -> str | None:
    """Return who wrote a discovery message; None where it says nobody, or is none."""
    try:
        return msgspec.json.decode(payload, type=_OriginOnly).origin.name
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None


def topics_of(payload: bytes, below: str) -> tuple[str, ...]:
    """Return the topics of states that a discovery message names, as far as they are ours."""
    try:
        said = msgspec.json.decode(payload, type=_TopicsOnly)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return ()
    named = (component.state_topic for component in said.components.values())
    return tuple(dict.fromkeys(topic for topic in named if topic.startswith(below)))


def discovery(device: HomeDevice) -> bytes:
    """Return the message that makes Home Assistant know a device."""
    components: dict[str, _Component | _Gone] = {"online": _online(device)}
    for slot in device.slots:
        components |= _components(device, slot)
    return _encode(
        _Discovery(
            device=_Device(
                identifiers=(f"fieldfare_{device.id}",),
                name=device.name,
                manufacturer=MANUFACTURER,
                model=device.model,
                sw_version=device.version,
                serial_number=device.id,
            ),
            origin=_Origin(name=device.origin, sw_version=device.origin_version),
            components=components,
        )
    )


def _components(device: HomeDevice, slot: HomeSlot) -> dict[str, _Component | _Gone]:
    """Return what is shown of one slot, by the id that discovery knows it by."""
    name, expire = slot.slot, max(slot.expire_seconds, 0)
    about = {"entity_category": "diagnostic"}
    health = {"state_topic": device.topics.health(name)}
    measured = {"state_class": "measurement", **about}
    found: dict[str, dict[str, object]] = {
        "prediction": {
            "name": name,
            "device_class": "enum",
            "options": tuple(dict.fromkeys(slot.classes)),
            "expire_after": expire,
            **_reads("label"),
        },
        "confidence": {
            "name": f"{name} confidence",
            "unit_of_measurement": "%",
            "suggested_display_precision": 0,
            "expire_after": expire,
            **_reads("confidence_percent"),
            **measured,
        },
        "drift": {
            "name": f"{name} prediction drift",
            "suggested_display_precision": 2,
            **health,
            **_reads("drift"),
            **measured,
        },
        "latency": {
            "name": f"{name} latency",
            "device_class": "duration",
            "unit_of_measurement": "ms",
            "suggested_display_precision": 3,
            **health,
            **_reads("latency_ms"),
            **measured,
        },
        "version": {"name": f"{name} model version", **health, **_reads("version"), **about},
        "problem": {
            "platform": "binary_sensor",
            "name": f"{name} problem",
            "device_class": "problem",
            "payload_on": "ON",
            "payload_off": "OFF",
            **health,
            **_reads("problem"),
            **about,
        },
        "update": {
            "platform": "update",
            "name": f"{name} model",
            "state_topic": device.topics.update(name),
            "title": name,
        },
    }
    shown: dict[str, _Component | _Gone] = {
        f"{name}_{what}": _component(device, name, what, more) for what, more in found.items()
    }
    if not slot.classes:
        for what in _OF_CLASSES:
            del shown[f"{name}_{what}"]
            if slot.had_classes:
                shown[f"{name}_{what}"] = _Gone("sensor")
    return shown


def _component(device: HomeDevice, slot: str, what: str, shown: dict[str, object]) -> _Component:
    available = _available(device)
    usual: dict[str, object] = {
        "platform": "sensor",
        "unique_id": f"fieldfare_{device.id}_{slot}_{what}",
        "state_topic": device.topics.state(slot),
        "availability": available,
        "availability_mode": "all" if len(available) > 1 else "",
    }
    return msgspec.convert(usual | shown, _Component)


def _reads(member: str) -> dict[str, object]:
    return {"value_template": f"{{{{ value_json.{member} }}}}"}


def _online(device: HomeDevice) -> _Component:
    """Return the sensor that is off, and not unavailable, while the device is away."""
    return _Component(
        platform="binary_sensor",
        unique_id=f"fieldfare_{device.id}_online",
        name="online",
        state_topic=device.topics.status,
        device_class="connectivity",
        entity_category="diagnostic",
        payload_on=ONLINE.decode(),
        payload_off=OFFLINE.decode(),
        availability=(_Availability(topic=device.above),) if device.above else (),
    )


def _available(device: HomeDevice) -> tuple[_Availability, ...]:
    above = (device.above,) if device.above else ()
    return tuple(_Availability(topic=topic) for topic in (*above, device.topics.status))


def _encode(message: Struct) -> bytes:
    return msgspec.json.encode(message)
