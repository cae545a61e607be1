"""The manager's bridge to Home Assistant, on a real broker."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from agent.contract.home_assistant import (
    AGENT_ORIGIN,
    HomeDevice,
    HomeSlot,
    bridge_origin,
    config_topic,
    discovery,
)
from agent.contract.manifest import encode_release
from agent.contract.messages import SlotReport
from agent.contract.owner_topics import OwnerTopics
from agent.contract.telemetry import Prediction
from agent.contract.topics import PREDICTION
from fleet.cli.machine_lines import behaviour_lines
from fleet.config import FleetConfig
from fleet.config_home import PASSWORD_FILE, HomeAssistantConfig
from fleet.errors import ConfigError, RefusedError
from fleet.ingest.home_bridge import HomeBridge, Pauses, Shown
from fleet.ingest.mail import Arrived, Connection
from fleet.service import home_views, membership, overview
from fleet.service.behaviour import merge
from fleet.service.desk import Desk
from fleet.service.doctor_home import check_home_assistant
from fleet.service.loop import RunningManager
from tests.brokers import eventually, free_port
from tests.home_broker import HomeBroker, OwnersClient
from tests.manager_home import join, make_desk, make_home, serving
from tests.small_fleet import BOOT, a_release, a_reported, a_window, assigned

pytestmark = pytest.mark.slow
ORIGIN = bridge_origin("demo")
DIGEST = "1" * 64
QUICK = Pauses(settle=0.3, jitter=0.1, again=0.05)


@pytest.fixture
def home(tmp_path: Path) -> Iterator[HomeBroker]:
    running = HomeBroker(tmp_path)
    yield running
    running.stop()


@contextmanager
def bridging(home: HomeBroker) -> Iterator[HomeBridge]:
    bridge = HomeBridge(
        Connection(url=home.url, client_id="bridge", longest_wait_seconds=0.3),
        prefix="fleet",
        discovery="homeassistant",
        origin=ORIGIN,
        every_seconds=1.0,
        pauses=QUICK,
    )
    bridge.start()
    yield bridge
    bridge.stop()


def a_shown(device: str, version: str = "v1", origin: str = ORIGIN) -> Shown:
    topics = OwnerTopics(prefix="fleet", device=device)
    message = discovery(
        HomeDevice(
            topics=topics,
            name=device,
            model="pi",
            version="0.1.0",
            slots=(HomeSlot(slot="motion", classes=("still", "walking")),),
            origin=origin,
            origin_version="1",
            above="fleet/status",
        )
    )
    states = {
        topics.status: b"online",
        topics.health("motion"): f'{{"version":"{version}"}}'.encode(),
    }
    return Shown(device=device, discovery=message, states=states)


def a_prediction(label: str = "walking") -> Prediction:
    return Prediction(
        id="a-1", ts=5, slot="motion", release=DIGEST, label=label, confidence=0.9, latency_us=30
    )


def announced(owner: OwnersClient, device: str) -> bytes | None:
    return owner.newest(config_topic("homeassistant", device))


def retained(home: HomeBroker) -> set[str]:
    """What somebody who comes later is told."""
    late = home.listener("#")
    late.publish("ready", b"what is retained came before")
    eventually(lambda: late.newest("ready") is not None)
    late.close()
    return {message.topic for message in late.heard} - {"ready"}


@pytest.mark.broker
def test_devices_are_announced_shown_and_taken_away(home):
    owner = home.listener("#")
    with bridging(home) as bridge:
        bridge.show((a_shown("d-a"), a_shown("d-b")))
        eventually(lambda: bool(announced(owner, "d-a") and announced(owner, "d-b")))
        assert owner.newest("fleet/status") == b"online"
        eventually(lambda: owner.document("fleet/d-a/motion/health") == {"version": "v1"})
        bridge.show((a_shown("d-a", version="v2"),))
        eventually(lambda: owner.document("fleet/d-a/motion/health") == {"version": "v2"})
        eventually(lambda: announced(owner, "d-b") == b"")
        assert bridge.state == "connected"
    eventually(lambda: owner.newest("fleet/status") == b"offline")
    owner.close()
    assert "fleet/d-b/status" not in retained(home)


@pytest.mark.broker
def test_a_prediction_is_told_at_once_when_it_is_another_and_else_now_and_then(home):
    owner = home.listener("fleet/#")
    with bridging(home) as bridge:
        bridge.predicted("d-a", a_prediction())  # nobody wants to see it yet
        bridge.show((a_shown("d-a"),))
        for _ in range(50):
            bridge.predicted("d-a", a_prediction())
            bridge.predicted("d-stranger", a_prediction())
        eventually(lambda: owner.document("fleet/d-a/motion/state").get("label") == "walking")
        bridge.predicted("d-a", a_prediction("still"))
        eventually(lambda: owner.document("fleet/d-a/motion/state").get("label") == "still")
        told = [m.topic for m in owner.heard if m.topic.endswith("motion/state")]
        assert len(told) <= 3
        assert "fleet/d-stranger/motion/state" not in told
    owner.close()


@pytest.mark.broker
def test_a_device_that_announces_itself_is_left_alone_until_it_no_longer_does(home):
    owner = home.listener("#")
    topic = config_topic("homeassistant", "d-a")
    own = a_shown("d-a", origin=AGENT_ORIGIN).discovery
    owner.publish(topic, own, retained=True, qos=1)
    eventually(lambda: owner.newest(topic) == own)
    with bridging(home) as bridge:
        bridge.show((a_shown("d-a"), a_shown("d-b")))
        eventually(lambda: announced(owner, "d-b") is not None)
        assert announced(owner, "d-a") == own
        assert owner.newest("fleet/d-a/motion/health") is None
        owner.publish(topic, b"", retained=True, qos=1)
        eventually(lambda: owner.document("fleet/d-a/motion/health") == {"version": "v1"})
        owner.publish(topic, own, retained=True, qos=1)  # later, it takes over
        eventually(lambda: owner.newest("fleet/d-a/motion/health") == b"")
        assert announced(owner, "d-a") == own
    owner.close()


@pytest.mark.broker
def test_home_assistant_and_a_broker_that_come_back_are_told_everything(home):
    owner = home.listener("#")
    with bridging(home) as bridge:
        bridge.show((a_shown("d-a"),))
        eventually(lambda: bool(announced(owner, "d-a")))
        owner.heard.clear()
        owner.publish("homeassistant/status", b"online")
        eventually(lambda: bool(announced(owner, "d-a")))
        home.stop()
        eventually(lambda: bridge.state.startswith("away: "))
        owner.heard.clear()
        home.start()
        eventually(lambda: bool(announced(owner, "d-a")))
    owner.close()


@pytest.mark.broker
def test_what_was_shown_before_a_restart_and_is_gone_is_taken_away(home):
    with bridging(home) as bridge:
        bridge.show((a_shown("d-gone"), a_shown("d-a")))
        eventually(lambda: config_topic("homeassistant", "d-gone") in retained(home))
    owner = home.listener("#")
    foreign = config_topic("homeassistant", "d-other")
    owner.publish(foreign, a_shown("d-other", origin=bridge_origin("x")).discovery, retained=True)
    with bridging(home) as bridge:
        bridge.show((a_shown("d-a"),))
        eventually(lambda: announced(owner, "d-gone") == b"")
    owner.close()
    left = retained(home)
    assert not {topic for topic in left if "d-gone" in topic}
    assert {foreign, config_topic("homeassistant", "d-a")} <= left


@pytest.mark.broker
def test_a_bridge_that_stumbles_begins_again(home):
    owner = home.listener("#")
    with bridging(home) as bridge:
        broken = replace(a_shown("d-a"), states={"a/#": b"no topic to publish on"})
        bridge.show((broken,))
        eventually(lambda: "ValueError" in bridge.state)
        bridge.show((a_shown("d-a"),))
        eventually(lambda: bool(owner.newest("fleet/d-a/motion/health")))
    owner.close()


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    desk = make_desk(tmp_path)
    desk.config = replace(desk.config, home_assistant=HomeAssistantConfig(url="mqtt://127.0.0.1"))
    yield desk
    desk.registry.close()


def with_classes(number: int):
    release = msgspec.structs.replace(a_release(number)[1], classes=("still", "walking"))
    manifest, digest = encode_release(release)
    return manifest, release, digest


def test_what_a_device_runs_and_is_wanted_to_run_is_shown(desk):
    device = join(desk).id
    devices = desk.registry.devices
    old, new = with_classes(1), with_classes(2)
    for manifest, release, digest in (old, new):
        desk.registry.models.add(manifest, release, digest, at_ms=1)
    reported = a_reported(motion=SlotReport(current=old[2], phase="fetching"))
    devices.reported(device, BOOT, reported, at_ms=1)
    devices.want(device, "motion", assigned(new[1], new[2]), at_ms=1)
    window = a_window(1, release=old[2], drift=0.25, inferences=3)
    desk.registry.reports.windows_add(device, BOOT, (window,), at_ms=1)
    (shown,) = home_views.shown(desk)
    topics = OwnerTopics(prefix="fieldfare-fleet", device=device)
    health = json.loads(shown.states[topics.health("motion")])
    assert (health["version"], health["drift"], health["problem"]) == ("01", 0.25, "OFF")
    update = json.loads(shown.states[topics.update("motion")])
    assert (update["installed_version"], update["latest_version"]) == ("01", "02")
    assert update["in_progress"] is True
    assert shown.states[topics.status] == b"offline"
    components = json.loads(shown.discovery)["components"]
    assert components["motion_prediction"]["options"] == ["still", "walking"]
    assert components["online"]["availability"] == [{"topic": "fieldfare-fleet/status"}]


def test_a_device_that_tells_nonsense_is_shown_without_it(desk):
    device = join(desk).id
    manifest, release, digest = a_release(1)
    desk.registry.models.add(manifest, release, digest, at_ms=1)
    devices = desk.registry.devices
    devices.reported(device, BOOT, a_reported(motion=SlotReport(current=digest)), at_ms=1)
    nonsense = a_window(1, release=digest, latency_us={"buckets": (9, 1), "counts": (1,)})
    desk.registry.reports.windows_add(device, BOOT, (nonsense,), at_ms=1)
    (shown,) = home_views.shown(desk)
    topic = OwnerTopics(prefix="fieldfare-fleet", device=device).health("motion")
    assert json.loads(shown.states[topic])["latency_ms"] is None


def test_only_selected_devices_that_are_enrolled_are_shown(desk):
    inside, outside = join(desk, group="home"), join(desk, group="work")
    chosen = HomeAssistantConfig(url="mqtt://127.0.0.1", devices="group=home")
    desk.config = replace(desk.config, home_assistant=chosen)
    assert [shown.device for shown in home_views.shown(desk)] == [inside.id]
    membership.revoke(desk, inside.id)
    assert home_views.shown(desk) == ()
    assert outside.id != inside.id


def test_a_prediction_is_taken_from_an_enrolled_device_only(desk):
    device, heard = join(desk), []
    desk.predicted = lambda who, said: heard.append((who, said.label))
    for who, payload in (
        (device.id, json.dumps(PLAIN).encode()),
        ("d-stranger", json.dumps(PLAIN).encode()),
        (device.id, b"{}"),
    ):
        topic = desk.topics.write(PREDICTION.at(who, "motion"))
        device.deliver(desk, Arrived(topic=topic, payload=payload))
    assert heard == [(device.id, "walking")]


PLAIN = {
    "v": 1,
    "ts": 5,
    "slot": "motion",
    "release": DIGEST,
    "label": "walking",
    "confidence": 0.9,
    "latency_us": 30,
}


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"url": "http://x"}, "home_assistant.url"),
        ({"prefix": "a/#"}, "home_assistant.prefix 'a/#' is no topic"),
        ({"discovery": ""}, "home_assistant.discovery"),
        ({"every_seconds": 0.1}, "below 1"),
    ],
)
def test_a_wrong_setting_is_named(settings, why):
    with pytest.raises(ConfigError, match=why):
        HomeAssistantConfig(**settings)


def test_a_bridge_that_cannot_be_opened_says_what_to_do(tmp_path):
    def opened(**settings: str) -> Callable[[], object]:
        shown = HomeAssistantConfig(url="mqtt://127.0.0.1", **settings)
        return lambda: home_views.open_bridge(replace(config, home_assistant=shown))

    config = make_home(tmp_path)
    assert home_views.open_bridge(config) is None
    with pytest.raises(ConfigError, match=PASSWORD_FILE):
        opened(username="bridge")()
    with pytest.raises(ConfigError, match="cannot be read"):
        opened(ca="missing.pem")()
    with pytest.raises(RefusedError, match="unknown"):
        opened(devices="colour=red")()


def status(manager: RunningManager) -> str:
    return manager.ask(overview.status).home_assistant


@pytest.mark.broker
def test_a_manager_shows_its_devices_and_takes_away_who_is_revoked(tmp_path, home):
    config = make_home(tmp_path)
    shown = HomeAssistantConfig(url=home.url, every_seconds=1.0)
    owner = home.listener("#")
    with serving(replace(config, home_assistant=shown)) as manager:
        device = manager.ask(lambda desk: join(desk).id)
        eventually(lambda: bool(announced(owner, device)))
        assert status(manager) == "connected"
        manager.ask(lambda desk: membership.revoke(desk, device))
        eventually(lambda: announced(owner, device) == b"")
    owner.close()


def test_a_bridge_without_a_broker_leaves_the_manager_alone(tmp_path):
    config = make_home(tmp_path)
    shown = HomeAssistantConfig(url=f"mqtt://127.0.0.1:{free_port()}")
    with serving(replace(config, home_assistant=shown)) as manager:
        eventually(lambda: status(manager).startswith("away: "))
        assert manager.ask(lambda desk: join(desk).id)


@pytest.mark.parametrize(
    ("said", "level", "words"),
    [
        (None, "ok", "once the manager runs"),
        ("connected", "ok", "is connected to"),
        ("away: refused", "warn", "away: refused"),
        ("", "warn", "start it again"),
    ],
)
def test_the_doctor_says_how_the_bridge_does(desk, said, level, words):
    view = (
        None
        if said is None
        else msgspec.structs.replace(overview.status(desk), home_assistant=said)
    )
    (check,) = check_home_assistant(desk.config, view)
    assert (check.state, words in check.why) == (level, True)


def test_the_doctor_says_what_keeps_the_manager_from_starting(desk):
    assert list(check_home_assistant(make_config(desk, HomeAssistantConfig()), None)) == []
    shown = HomeAssistantConfig(url="mqtt://127.0.0.1", username="bridge")
    (check,) = check_home_assistant(make_config(desk, shown), None)
    assert (check.state, PASSWORD_FILE in check.why) == ("fail", True)


def make_config(desk: Desk, shown: HomeAssistantConfig) -> FleetConfig:
    return replace(desk.config, home_assistant=shown)


def test_drift_of_the_newest_window_is_told_with_the_slot():
    windows = [a_window(1, drift=0.5), a_window(2, drift=0.3125)]
    told = [text for _, text in behaviour_lines(merge(windows, "motion v1"))]
    assert "prediction drift 0.31 (0.1 is small, 0.25 large)" in told
    silent = [text for _, text in behaviour_lines(merge([a_window(1)], "motion v1"))]
    assert not any("drift" in text for text in silent)
