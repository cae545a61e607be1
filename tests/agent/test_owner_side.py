"""A device on its owner's own broker: Home Assistant, requests, sources that fall silent."""

import json
import re
import shutil
import subprocess
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.agents import RunningAgent
from tests.benches import Bench, placement
from tests.brokers import eventually
from tests.home_broker import HomeBroker, OwnersClient
from tests.small_manager import SmallManager
from tests.small_models import CHANNELS, CLASSES, SAMPLES, classifier

pytestmark = pytest.mark.broker
SAMPLE = json.dumps({"acceleration": {"x": 0.5, "y": 0.1, "z": 0.9}, "battery": 97}).encode()
ASKED = {
    "inputs": [
        {
            "name": "x",
            "datatype": "FP32",
            "shape": [1, len(CHANNELS), SAMPLES],
            "data": [0.25] * (len(CHANNELS) * SAMPLES),
        }
    ]
}
CONFIG = """
[local_broker]
url = "{url}"
probabilities = true

[home_assistant]
name = "shelf"
every_seconds = 1

[pipeline.motion.source]
kind = "mqtt"
topic = "zigbee2mqtt/#"
fields = ["acceleration.x", "acceleration.y", "acceleration.z"]
stale_seconds = 2
"""


class House:
    """One device, its owner's broker and somebody who listens to all of it."""

    def __init__(self, bench: Bench, agent: RunningAgent, owner: OwnersClient) -> None:
        self.bench = bench
        self.agent = agent
        self.owner = owner
        self.device = bench.device

    def topic(self, last: str) -> str:
        return f"fieldfare/{self.device}/motion/{last}"

    @property
    def config_topic(self) -> str:
        return f"homeassistant/device/{self.device}/config"

    def feed(self) -> None:
        self.owner.publish("zigbee2mqtt/watch", SAMPLE)

    def until(self, holds, *, fed: bool = True) -> None:
        def look() -> bool:
            if fed:
                self.feed()
            return bool(holds())

        self.bench.until(self.agent, look)

    def ask(self, number: int, body: bytes, **more: str) -> dict[str, object]:
        correlation = f"asked-{number}".encode()
        wished = {"response_topic": "panel/answers", **more}
        self.owner.publish(self.topic("infer"), body, correlation=correlation, **wished)
        return self.owner.answer_to(correlation)


@contextmanager
def house(tmp_path: Path, manager: SmallManager, home: HomeBroker, config: str = CONFIG):
    bench = Bench(tmp_path, manager, config.format(url=home.url))
    early = "window_seconds = 0.5\ndrift_first = 10\ndrift_newest = 10"
    bench.config.write_text(bench.config.read_text().replace("window_seconds = 0.5", early))
    built = manager.publish(classifier(0), placement(1))
    owner = home.listener("#")
    with bench.run() as agent:
        inside = House(bench, agent, owner)
        manager.assign(bench.device, built)
        inside.until(lambda: bench.current() == built.digest)
        yield inside
        assert agent.stop() == 0
    owner.close()


def shown(owner: OwnersClient, component: dict[str, object]) -> object:
    """What Home Assistant would show: the template's member of the newest state."""
    member = re.fullmatch(r"\{\{ value_json\.(\w+) \}\}", str(component["value_template"]))
    assert member
    return owner.document(str(component["state_topic"])).get(member[1])


def test_a_maker_sees_a_class_by_its_name_in_home_assistant(tmp_path, manager, home):
    with house(tmp_path, manager, home) as inside:
        owner = inside.owner

        def found() -> dict[str, dict[str, object]]:
            return owner.document(inside.config_topic).get("components", {})

        inside.until(lambda: "motion_prediction" in found())
        assert owner.document(inside.config_topic)["device"]["name"] == "shelf"
        sensor = found()["motion_prediction"]
        assert tuple(sensor["options"]) == CLASSES
        assert sensor["expire_after"] == 3  # the silence of its source, and three times the pace
        inside.until(lambda: shown(owner, sensor) in CLASSES)
        inside.until(lambda: shown(owner, found()["motion_version"]) == "v1")
        inside.until(lambda: shown(owner, found()["motion_latency"]))
        assert 0 < shown(owner, found()["motion_confidence"]) <= 100
        inside.until(lambda: shown(owner, found()["motion_drift"]) == 0.0)
        update = owner.document(inside.topic("update"))
        assert (update["installed_version"], update["latest_version"]) == ("v1", "v1")
        assert owner.newest(str(found()["online"]["state_topic"])) == b"online"
        said = owner.document(inside.topic("prediction"))
        assert set(said["probabilities"]) == set(CLASSES)
        assert sum(said["probabilities"].values()) == pytest.approx(1, abs=1e-3)

    assert owner.newest(f"fieldfare/{inside.device}/status") == b"offline"


def test_home_assistant_that_starts_is_told_again_and_one_restart_after_the_other(
    tmp_path, manager, home
):
    with house(tmp_path, manager, home) as inside:
        inside.until(lambda: inside.owner.newest(inside.config_topic))
        inside.owner.heard.clear()
        inside.owner.publish("homeassistant/status", b"online")
        inside.until(lambda: inside.owner.newest(inside.config_topic), fed=False)
        inside.owner.heard.clear()
        home.stop()
        home.start()
        inside.until(lambda: inside.owner.broker.connected, fed=False)
        inside.until(lambda: inside.owner.newest(inside.config_topic))
        inside.until(lambda: inside.owner.newest(inside.topic("state")))


def test_a_device_that_is_no_longer_announced_is_taken_away(tmp_path, manager, home):
    with house(tmp_path, manager, home) as inside:
        inside.until(lambda: inside.owner.newest(inside.topic("state")))
    config = inside.bench.config.read_text()
    inside.bench.config.write_text(config.replace('name = "shelf"', "announce = false"))
    late = home.listener("homeassistant/#")
    with inside.bench.run() as agent:
        inside.bench.until(agent, lambda: late.newest(inside.config_topic) == b"")
        assert agent.stop() == 0
    late.close()
    latest = home.listener("homeassistant/#", f"fieldfare/{inside.device}/motion/#", "ready")
    latest.publish("ready", b"what is retained came before")
    eventually(lambda: latest.newest("ready") is not None)
    latest.close()
    assert [m.topic for m in latest.heard] == ["ready"]


def test_a_request_by_the_owners_broker_is_answered_where_it_wishes(tmp_path, manager, home):
    with house(tmp_path, manager, home) as inside:
        said = inside.ask(1, json.dumps(ASKED | {"id": "mine"}).encode())
        assert said["model_name"] == "motion"
        assert said["id"] == "mine"
        assert said["parameters"]["label"] in CLASSES
        assert [output["name"] for output in said["outputs"]] == ["probabilities", "embedding"]
        body = ASKED | {"id": "v3", "response_topic": "old/panel"}
        inside.owner.publish(inside.topic("infer"), json.dumps(body).encode())
        inside.until(lambda: inside.owner.document("old/panel").get("id") == "v3", fed=False)
        inside.owner.publish(inside.topic("infer"), json.dumps(ASKED).encode())
        inside.until(
            lambda: inside.owner.document(inside.topic("infer/response")).get("outputs"), fed=False
        )


@pytest.mark.skipif(not shutil.which("mosquitto_rr"), reason="mosquitto-clients is not installed")
def test_mosquittos_own_programs_get_predictions_and_answers(tmp_path, manager, home):
    def said(*arguments: str) -> dict[str, object]:
        ended = subprocess.run(
            [*arguments, "-h", "127.0.0.1", "-p", str(home.port), "-W", "20"],
            capture_output=True,
            text=True,
            check=True,
        )
        return json.loads(ended.stdout)

    with house(tmp_path, manager, home) as inside:
        inside.until(lambda: inside.owner.newest(inside.topic("state")))
        state = said("mosquitto_sub", "-V", "311", "-C", "1", "-t", inside.topic("state"))
        assert state["label"] in CLASSES
        asked = json.dumps(ASKED | {"id": "rr"})
        wish = ("-t", inside.topic("infer"), "-e", "panel/rr", "-m", asked)
        answer = said("mosquitto_rr", "-V", "5", *wish)
        assert (answer["id"], answer["model_version"]) == ("rr", "v1")


def test_a_bad_request_is_answered_counted_and_the_next_one_works(tmp_path, manager, home):
    wrong = ASKED["inputs"][0] | {"shape": [1, 2, 2], "data": [0.0] * 4}
    nan = json.dumps(ASKED).replace("0.25", "1e999", 1)
    bad = [
        (b"\xff\xfe", "malformed"),
        (b"[" * 10_000, "malformed"),
        (b"[]", "malformed"),
        (b" " * 131_073, "oversized"),
        (json.dumps({"inputs": [wrong]}).encode(), "input-refused"),
        (json.dumps(ASKED | {"outputs": [{"name": "no"}]}).encode(), "input-refused"),
        (nan.encode(), None),
    ]
    with house(tmp_path, manager, home) as inside:
        for number, (body, code) in enumerate(bad):
            said = inside.ask(number, body)
            assert said["error"], body[:40]
            assert code in {said["code"], None}, said
        for number, topic in enumerate(
            [
                "$SYS/x",
                f"fieldfare/{inside.device}/motion/infer",
                "zigbee2mqtt/a",
                "homeassistant/x",
            ]
        ):
            said = inside.ask(100 + number, json.dumps(ASKED).encode(), response_topic=topic)
            assert "response topic" in said["error"]
        assert inside.ask(200, json.dumps(ASKED).encode())["outputs"]

        def counted() -> object:
            told = [t.owner for t in inside.bench.heard.telemetry() if t.owner]
            return told and (told[-1].refused, told[-1].answered)

        inside.until(lambda: counted() == (len(bad) + 4, 1), fed=False)


def test_more_requests_than_are_taken_are_refused_at_once(tmp_path, manager, home):
    slow = CONFIG.replace("probabilities = true", "requests_per_second = 0.01")
    with house(tmp_path, manager, home, slow) as inside:
        assert inside.ask(1, json.dumps(ASKED).encode())["outputs"]
        assert inside.ask(2, json.dumps(ASKED).encode())["code"] == "too-many-requests"


def test_a_source_that_falls_silent_is_told_and_so_is_its_return(tmp_path, manager, home):
    with house(tmp_path, manager, home) as inside:
        inside.owner.publish("zigbee2mqtt/bridge", b'{"state": "online"}')
        inside.owner.publish("zigbee2mqtt/watch", b'{"acceleration": {"x": 1, "y": "left"}}')

        def alarms() -> list[str | None]:
            return [event.code for event in inside.bench.heard.events("alarm")]

        inside.until(lambda: "samples-malformed" in alarms())
        inside.until(lambda: "source-stale" in alarms(), fed=False)
        health = inside.topic("health")
        inside.until(lambda: inside.owner.document(health).get("problem") == "ON", fed=False)
        assert "no samples of motion" in inside.owner.document(health)["why"]
        inside.until(lambda: "source-flows" in alarms())
        inside.until(lambda: inside.owner.document(health).get("problem") == "OFF")
        told = next(e for e in inside.bench.heard.events("alarm") if e.code == "samples-malformed")
        assert "acceleration.y is a text" in told.why
        owner = [t.owner for t in inside.bench.heard.telemetry() if t.owner][-1]
        assert owner.malformed == 1  # the bridge's own message is none of ours, and no fault


def test_a_broker_that_grants_no_requests_still_takes_predictions(tmp_path, manager):
    rights = "topic read zigbee2mqtt/#\ntopic write zigbee2mqtt/#\ntopic write fieldfare/#\n"
    home = HomeBroker(tmp_path, acl=f"{rights}topic read fieldfare/+/+/prediction\n")
    bench = Bench(tmp_path, manager, CONFIG.format(url=home.url))
    built = manager.publish(classifier(0), placement(1))
    owner = home.listener("fieldfare/+/+/prediction")
    with bench.run() as agent:
        manager.assign(bench.device, built)

        def predicted() -> bool:
            owner.publish("zigbee2mqtt/watch", SAMPLE)
            return bool(owner.newest(f"fieldfare/{bench.device}/motion/prediction"))

        bench.until(agent, predicted)
        assert agent.stop() == 0
    owner.close()
    home.stop()
