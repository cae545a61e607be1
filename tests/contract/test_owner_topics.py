"""Where an answer may go, and what a filter hears."""

import pytest

from agent.contract.owner_topics import OwnerTopics, is_filter, matches
from agent.errors import MalformedError

TOPICS = OwnerTopics(prefix="fieldfare", device="d-abc")
SLOTS = ("motion", "pump")
FOREIGN = ("zigbee2mqtt/#", "homeassistant/#", "sensors/+/raw")


@pytest.mark.parametrize(
    "topic",
    [
        "panel/answers",
        "fieldfare-panel/x",
        "fieldfare/d-abc/motion/infer/response",
        "fieldfare/d-abc/pump/infer/response/panel-7",
        "fieldfare/d-abc/motion/feedback/response",
        "sensors/left/cooked",
        "größe",
    ],
)
def test_an_answer_may_go_where_nobody_takes_it_for_something_else(topic):
    assert TOPICS.require_response(topic, SLOTS, FOREIGN) == topic


@pytest.mark.parametrize(
    ("topic", "why"),
    [
        ("", "not 1 to 256 bytes"),
        ("x" * 257, "not 1 to 256 bytes"),
        ("ü" * 129, "not 1 to 256 bytes"),
        ("$SYS/broker", "begins with"),
        ("$share/group/x", "begins with"),
        ("panel/+", "wildcard"),
        ("panel/#", "wildcard"),
        ("panel\0", "control characters"),
        ("panel\n", "control characters"),
        ("fieldfare/d-abc/motion/infer", "one of ours"),
        ("fieldfare/d-other/motion/infer", "one of ours"),
        ("fieldfare/d-abc/motion/feedback", "one of ours"),
        ("fieldfare/d-abc/status", "one of ours"),
        ("fieldfare/d-abc/none/infer/response", "one of ours"),
        ("zigbee2mqtt/door", "would be heard as zigbee2mqtt/#"),
        ("homeassistant/device/x/config", "would be heard as"),
        ("sensors/left/raw", "would be heard as"),
    ],
)
def test_an_answer_never_goes_where_it_means_something_else(topic, why):
    with pytest.raises(MalformedError, match=why):
        TOPICS.require_response(topic, SLOTS, FOREIGN)


@pytest.mark.parametrize(
    ("pattern", "topic", "heard"),
    [
        ("a/b", "a/b", True),
        ("a/b", "a/b/c", False),
        ("a/b/c", "a/b", False),
        ("#", "a/b", True),
        ("+/b", "$SYS/b", False),
        ("a//+", "a//c", True),
        ("+", "", True),
        ("a/+/#", "a/b", True),
        ("a/+/#", "a", False),
    ],
)
def test_a_filter_hears_what_mqtt_says_it_hears(pattern, topic, heard):
    assert matches(pattern, topic) is heard


@pytest.mark.parametrize("pattern", ["", "a/#/b", "a+", "a/b#", "#/a", "a\0"])
def test_what_cannot_be_subscribed_to_is_no_filter(pattern):
    assert not is_filter(pattern)
