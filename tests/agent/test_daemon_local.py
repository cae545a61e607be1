"""Samples from the owner's own broker, and answers to it and to the owner's own code."""

import json
from pathlib import Path

import pytest

from agent.config_file import parse_config
from agent.errors import ConfigError
from agent.link.connection import Foreign
from tests.benches import Bench, placement
from tests.brokers import eventually
from tests.small_models import CHANNELS, CLASSES, classifier

pytestmark = pytest.mark.broker


def test_samples_of_a_local_topic_are_answered_on_a_local_topic(tmp_path, manager, home):
    extra = f"""
[local_broker]
url = "mqtt://127.0.0.1:{home.port}"

[pipeline.motion]
source = {{ kind = "mqtt", topic = "watch/left" }}
"""
    bench = Bench(tmp_path, manager, extra)
    built = manager.publish(classifier(0), placement(1))
    owner, heard = home.client("fieldfare/#")
    sample = json.dumps([[0.5] * len(CHANNELS)] * 4).encode()
    with bench.run() as agent:
        manager.assign(bench.device, built)

        def installed() -> bool:
            owner.publish(Foreign(topic="watch/left", payload=sample))
            return bench.current() == built.digest

        bench.until(agent, installed)
        bench.until(agent, lambda: len(heard) > 10)
        assert agent.stop() == 0
    owner.stop()
    status = f"fieldfare/{bench.device}/status"
    assert [payload for topic, payload in heard if topic == status] == [b"online", b"offline"]
    topic, payload = next((t, p) for t, p in reversed(heard) if t != status)
    assert topic == f"fieldfare/{bench.device}/motion/prediction"
    said = json.loads(payload)
    assert said["label"] in CLASSES
    assert (said["release"], said["version"]) == (built.digest, "v1")
    assert said["id"]
    assert said["probabilities"] is None
    assert bench.heard.predictions == []


def test_a_local_broker_that_went_away_is_found_again(home):
    owner, heard = home.client("a/#")
    home.stop()
    eventually(lambda: not owner.connected)
    assert not owner.publish(Foreign(topic="a/b", payload=b"lost"))
    home.start()
    eventually(lambda: owner.connected)
    assert owner.publish(Foreign(topic="a/b", payload=b"kept"))
    eventually(lambda: heard == [("a/b", b"kept")])
    owner.stop()


def test_a_broker_without_subscriptions_is_only_written_to(home):
    reader, heard = home.client("x/#")
    writer, _ = home.client()
    writer.publish(Foreign(topic="x/y", payload=b"1"))
    eventually(lambda: heard == [("x/y", b"1")])
    writer.stop()
    reader.stop()


def test_an_mqtt_source_without_a_local_broker_is_a_wrong_setting():
    text = '[pipeline.motion]\nsource = { kind = "mqtt", topic = "a" }\n'
    with pytest.raises(ConfigError, match=r"needs \[local_broker\]"):
        parse_config(text, folder=Path("/etc"))


def test_every_answer_reaches_the_owners_callback(tmp_path, manager):
    extra = """
[pipeline.motion]
source = { kind = "replay", path = "recording.npz", speed = 20, loop = true }
callback = "logging:warning"
"""
    bench = Bench(tmp_path, manager, extra)
    built = manager.publish(classifier(0), placement(1))
    with bench.run() as agent:
        bench.install(agent, built)
        bench.until(agent, lambda: agent.said().count("Answer(") > 5)
        assert agent.stop() == 0


def test_a_callback_that_is_not_there_is_a_wrong_setting(tmp_path, manager):
    extra = """
[pipeline.motion]
source = { kind = "replay", path = "recording.npz" }
callback = "no_such_module:f"
"""
    bench = Bench(tmp_path, manager, extra)
    with bench.run() as agent:
        assert agent.child.wait(30) == 3
    assert "no_such_module" in agent.said()
