"""Discovery and states, held against what Home Assistant documents.

The tables cite https://www.home-assistant.io/integrations/mqtt/ ("Device discovery payload"),
sensor.mqtt, binary_sensor.mqtt and update.mqtt, and the schemas of homeassistant/components/mqtt
of 2026.9: voluptuous refuses whatever they do not list.
"""

import json
import re
from dataclasses import replace

import pytest

from agent.contract.home_assistant import (
    AGENT_ORIGIN,
    HomeDevice,
    HomeSlot,
    bridge_origin,
    config_topic,
    device_of,
    discovery,
    origin_of,
    topics_of,
)
from agent.contract.home_states import (
    SlotHealth,
    SlotState,
    encode_state,
    update_state,
)
from agent.contract.owner_topics import OwnerTopics

DEVICE_MEMBERS = {
    "identifiers",
    "connections",
    "manufacturer",
    "model",
    "model_id",
    "name",
    "hw_version",
    "serial_number",
    "sw_version",
    "via_device",
    "suggested_area",
    "configuration_url",
}
ORIGIN_MEMBERS = {"name", "sw_version", "support_url"}
ENTITY = {
    "platform",
    "unique_id",
    "name",
    "state_topic",
    "value_template",
    "availability",
    "availability_mode",
    "device_class",
    "entity_category",
    "json_attributes_topic",
    "icon",
    "qos",
    "enabled_by_default",
}
MEMBERS = {
    "sensor": ENTITY
    | {
        "expire_after",
        "force_update",
        "options",
        "state_class",
        "suggested_display_precision",
        "unit_of_measurement",
    },
    "binary_sensor": ENTITY
    | {"expire_after", "force_update", "off_delay", "payload_on", "payload_off"},
    "update": ENTITY
    | {"title", "release_summary", "release_url", "latest_version_topic", "entity_picture"},
}
DEVICE_CLASSES = {
    "sensor": {"enum", "duration"},
    "binary_sensor": {"connectivity", "problem"},
    "update": set(),
}
UPDATE_STATE = {
    "installed_version",
    "latest_version",
    "title",
    "release_summary",
    "release_url",
    "entity_picture",
    "in_progress",
    "update_percentage",
}
OBJECT_ID = re.compile(r"[a-zA-Z0-9_-]+")
"""Of a discovery topic, see "Discovery topic"."""


def device(**changed: object) -> HomeDevice:
    usual = HomeDevice(
        topics=OwnerTopics(prefix="fieldfare", device="d-abcdefgh"),
        name="shelf",
        model="raspberry-pi-5",
        version="0.1.0",
        slots=(
            HomeSlot(slot="motion", classes=("still", "walking"), expire_seconds=90),
            HomeSlot(slot="pump"),
        ),
        origin=AGENT_ORIGIN,
        origin_version="0.1.0",
    )
    return replace(usual, **changed)  # type: ignore[arg-type]  # a test's own words


def components(**changed: object) -> dict[str, dict[str, object]]:
    return json.loads(discovery(device(**changed)))["components"]


@pytest.mark.parametrize("above", [None, "fieldfare-fleet/status"])
def test_a_discovery_message_holds_only_what_home_assistant_documents(above):
    said = json.loads(discovery(device(above=above)))
    assert set(said) == {"device", "origin", "components"}
    assert set(said["device"]) <= DEVICE_MEMBERS
    assert said["device"]["identifiers"], "a device needs one identifier at least"
    assert set(said["origin"]) <= ORIGIN_MEMBERS
    assert said["origin"]["name"], "the origin's name is required"
    for key, component in said["components"].items():
        platform = component["platform"]
        assert OBJECT_ID.fullmatch(key)
        assert set(component) <= MEMBERS[platform], key
        assert component["unique_id"], "required in device discovery"
        assert component["state_topic"]
        assert component.get("device_class") in DEVICE_CLASSES[platform] | {None}
        assert component.get("entity_category") in {"diagnostic", None}, "config can be set"
        assert component.get("expire_after", 1) > 0, "a positive number"
        for place in component.get("availability", ()):
            assert set(place) <= {"topic", "payload_available", "payload_not_available"}
        assert component.get("availability_mode", "latest") in {"all", "any", "latest"}


def test_nothing_in_a_discovery_message_is_null_or_empty():
    def walk(value: object) -> None:
        assert value not in (None, "", [], {})
        if isinstance(value, dict):
            for inner in value.values():
                walk(inner)

    walk(json.loads(discovery(device())))


def test_an_enum_has_options_and_neither_unit_nor_state_class():
    motion = components()["motion_prediction"]
    assert motion["device_class"] == "enum"
    assert motion["options"] == ["still", "walking"]
    assert not {"unit_of_measurement", "state_class"} & set(motion)


def test_a_duration_has_a_unit_that_home_assistant_knows():
    latency = components()["motion_latency"]
    assert latency["device_class"] == "duration"
    assert latency["unit_of_measurement"] in {"d", "h", "min", "s", "ms"}


def test_ids_are_unique_and_the_same_whoever_announces():
    ours, bridged = components(), components(origin=bridge_origin("home"), above="x/status")
    ids = [component["unique_id"] for component in ours.values()]
    assert len(set(ids)) == len(ids)
    assert ids == [component["unique_id"] for component in bridged.values()]


def test_a_model_without_classes_has_no_sensor_for_a_prediction():
    found = {key for key in components() if key.startswith("pump_")}
    assert found == {"pump_latency", "pump_version", "pump_problem", "pump_update"}


def test_sensors_of_classes_go_away_with_the_classes():
    found = components(slots=(HomeSlot(slot="pump", had_classes=True),))
    gone = {key for key, component in found.items() if component == {"platform": "sensor"}}
    assert gone == {"pump_prediction", "pump_confidence", "pump_drift"}


def test_every_template_reads_a_member_of_the_state_behind_it():
    topics = device().topics
    state = SlotState(label="still", confidence_percent=91.0, id="a-1", ts=1)
    health = SlotHealth(version="v1", latency_ms=0.1, drift=None, problem="OFF", why="", ts=1)
    states = {
        topics.state("motion"): json.loads(encode_state(state)),
        topics.health("motion"): json.loads(encode_state(health)),
    }
    read = set()
    for key, component in components().items():
        template = component.get("value_template")
        if template is None or not key.startswith("motion_"):
            continue
        member = re.fullmatch(r"\{\{ value_json\.(\w+) \}\}", str(template))
        assert member, template
        assert member[1] in states[str(component["state_topic"])], key
        read.add(member[1])
    assert read == {"label", "confidence_percent", "version", "latency_ms", "drift", "problem"}


def test_a_device_that_is_away_is_off_and_the_rest_is_unavailable():
    found = components()
    assert "availability" not in found["online"], "it would be unavailable instead of off"
    assert found["motion_prediction"]["availability"] == [{"topic": "fieldfare/d-abcdefgh/status"}]


def test_behind_a_bridge_both_have_to_be_there():
    found = components(above="fleet/status")
    assert found["online"]["availability"] == [{"topic": "fleet/status"}]
    assert found["motion_latency"]["availability_mode"] == "all"
    assert len(found["motion_latency"]["availability"]) == 2


def test_an_update_can_be_looked_at_but_not_installed():
    found = components()["motion_update"]
    assert not {"command_topic", "payload_install"} & set(found)


@pytest.mark.parametrize(
    ("installed", "latest", "expected"),
    [
        pytest.param("v1", "v2", {"installed_version": "v1", "latest_version": "v2"}, id="both"),
        pytest.param("v1", None, {"installed_version": "v1", "latest_version": "v1"}, id="none"),
        pytest.param(None, "v2", {"latest_version": "v2"}, id="first"),
        pytest.param(None, None, {}, id="nothing"),
    ],
)
def test_an_update_state_has_no_member_that_home_assistant_does_not_know(
    installed, latest, expected
):
    said = json.loads(
        update_state(installed=installed, latest=latest, title="motion", summary="x" * 999)
    )
    assert set(said) <= UPDATE_STATE
    assert None not in said.values()
    assert len(said.pop("release_summary")) == 255
    assert said == expected | {"title": "motion", "in_progress": False}


def test_a_topic_of_discovery_can_be_read_back():
    topic = config_topic("home", "d-abc")
    assert topic == "home/device/d-abc/config"
    assert OBJECT_ID.fullmatch("d-abc")
    assert device_of("home", topic) == "d-abc"
    for other in ("home/sensor/d-abc/config", "homer/device/d-abc/config", "home/device//config"):
        assert device_of("home", other) is None


@pytest.mark.parametrize(
    ("payload", "origin"),
    [
        (discovery(device()), AGENT_ORIGIN),
        (discovery(device(origin=bridge_origin("home"))), bridge_origin("home")),
        (b"", None),
        (b"{}", None),
        (b"[" * 100_000, None),
        (b'{"origin": 3}', None),
        (b"\xff", None),
    ],
)
def test_who_wrote_a_discovery_message_is_read_from_it(payload, origin):
    assert origin_of(payload) == origin


def test_topics_of_states_are_read_from_a_discovery_message_below_one_place_only():
    payload = discovery(device())
    motion = [f"fieldfare/d-abcdefgh/motion/{last}" for last in ("state", "health", "update")]
    found = topics_of(payload, "fieldfare/d-abcdefgh/")
    assert {"fieldfare/d-abcdefgh/status", *motion} <= set(found)
    assert topics_of(payload, "elsewhere/") == ()
    assert topics_of(b"\xff", "") == ()
