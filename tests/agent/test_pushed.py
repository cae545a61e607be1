"""Samples that sensors publish as JSON objects."""

import json
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.config_file import parse_config
from agent.config_inference import PipelineConfig, Subscribed
from agent.contract.telemetry import Window
from agent.daemon.source_watch import SourceWatch
from agent.errors import ConfigError, MalformedError
from agent.infer.pushed import Flow, Pushed, read_fields

FIELDS = (("acceleration", "x"), ("acceleration", "y"), ("moving",))


def test_fields_of_an_object_are_the_channels_in_their_order():
    said = {"moving": True, "acceleration": {"y": 2, "x": 1.5, "z": 9}, "battery": 97}
    assert read_fields(json.dumps(said).encode(), FIELDS).tolist() == [[1.5, 2.0, 1.0]]


def test_several_objects_are_several_samples():
    row = {"moving": False, "acceleration": {"x": 1, "y": 2}}
    assert read_fields(json.dumps([row, row, {"other": 1}]).encode(), FIELDS).shape == (2, 3)


@pytest.mark.parametrize("said", [{}, {"battery": 97}, {"acceleration": {"z": 1}}, [], [{}]])
def test_an_object_with_none_of_the_fields_is_somebody_elses(said):
    assert read_fields(json.dumps(said).encode(), FIELDS) is None


@pytest.mark.parametrize(
    ("payload", "why"),
    [
        (b"online", "do not parse"),
        (b"\xff\x00", "do not parse"),
        (b"[" * 50_000, "do not parse"),
        (b"7", "a sample is a number"),
        (b'["a"]', "a sample is a text"),
        (b'{"moving": true}', "field acceleration.x is missing"),
        (b'{"moving": null, "acceleration": {"x": 1, "y": 2}}', "field moving is missing"),
        (b'{"moving": "yes", "acceleration": {"x": 1, "y": 2}}', "field moving is a text"),
        (b'{"moving": 1, "acceleration": {"x": [1], "y": 2}}', "acceleration.x is an array"),
        (b'{"moving": 1, "acceleration": {"x": {}, "y": 2}}', "acceleration.x is an object"),
        (b'{"moving": 1' + b"0" * 400 + b', "acceleration": {"x": 1, "y": 2}}', "too large"),
        (b" " * 200_000, "over"),
    ],
)
def test_an_object_that_is_no_sample_says_why(payload, why):
    with pytest.raises(MalformedError, match=why):
        read_fields(payload, FIELDS)


@given(
    st.one_of(
        st.binary(max_size=200),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
            lambda inner: (
                st.lists(inner, max_size=4)
                | st.dictionaries(st.sampled_from(["acceleration", "x", "y", "moving"]), inner)
            ),
            max_leaves=12,
        ).map(lambda said: json.dumps(said).encode()),
    )
)
def test_whatever_arrives_is_samples_or_nothing_or_malformed(payload):
    try:
        block = read_fields(payload, FIELDS)
    except MalformedError:
        return
    assert block is None or (block.ndim, block.shape[1]) == (2, 3)


def test_a_number_beyond_float32_becomes_infinite_for_the_models_own_check():
    said = b'{"moving": 1e300, "acceleration": {"x": 1, "y": 2}}'
    assert read_fields(said, FIELDS)[0, 2] == float("inf")


def test_a_stream_of_objects_goes_on_past_what_is_none_of_it():
    source = Pushed(2, ("a", "b"))
    for payload in (b'{"state": "on"}', b'{"a": 1}', b"?", b'{"a": 1, "b": 2}'):
        source.push(payload)
    assert next(source.blocks(threading.Event())).tolist() == [[1.0, 2.0]]
    assert source.flow.malformed == 2


def test_silence_lasts_until_a_good_sample():
    now = [100.0]
    source = Pushed(1, ("a",), clock=lambda: now[0])
    blocks = source.blocks(threading.Event())
    now[0] = 130.0
    assert source.flow.silent_seconds == 30.0
    for payload in (b"?", b'{"battery": 9}', b'{"a": 1}'):
        source.push(payload)
    next(blocks)
    assert source.flow.silent_seconds == 0.0
    now[0] = 131.0
    source.push(b"?")
    source.push(b'{"a": 2}')
    now[0] = 135.0
    assert source.flow.silent_seconds == 5.0


class Watched:
    """A watch over one source, and the alarms that it told."""

    def __init__(self, stale_seconds: float = 60.0) -> None:
        source = Subscribed(topic="wrist", stale_seconds=stale_seconds)
        self.told: list[str] = []
        self.watch = SourceWatch(
            {"motion": PipelineConfig(source=source)},
            lambda code, _why, _slot: self.told.append(code),
        )

    def look(self, silent: float, malformed: int = 0, **window: int) -> str:
        flow = Flow(malformed=malformed, why="?", dropped=0, silent_seconds=silent)
        seen = Window(slot="motion", release="1" * 64, number=0, opened_ms=1, closed_ms=2, **window)
        self.watch.look({"motion": flow}, [seen] if window else [])
        return self.watch.problem("motion")


def test_silence_and_its_end_are_told_once_each():
    watched = Watched()
    problems = [bool(watched.look(silent)) for silent in (0, 59, 61, 200, 1, 2)]
    assert problems == [False, False, True, True, False, False]
    assert watched.told == ["source-stale", "source-flows"]


def test_a_source_that_may_be_silent_for_ever_is_never_stale():
    watched = Watched(stale_seconds=0)
    assert watched.look(1e9) == ""
    assert watched.told == []


def test_malformed_messages_are_told_when_there_are_more_of_them():
    watched = Watched()
    for malformed in (0, 3, 3, 5):
        watched.look(0, malformed)
    assert watched.told == ["samples-malformed", "samples-malformed"]


def test_windows_that_are_all_refused_are_a_problem_until_one_is_answered():
    watched = Watched()
    assert "2 were refused and 1 failed" in watched.look(0, refused=2, failed=1)
    assert watched.look(0, refused=5, inferences=1) == ""


def test_a_source_that_ended_stays_a_problem():
    watched = Watched()
    watched.watch.ended("motion", "motion has no more samples")
    assert watched.look(0, inferences=3) == "motion has no more samples"


def test_fields_of_another_number_than_the_models_channels_are_told():
    source, stop = Pushed(3, ("a", "b")), threading.Event()
    source.push(b'{"a": 1, "b": 2}')
    threading.Timer(0.3, stop.set).start()
    assert list(source.blocks(stop)) == []
    assert "shape (1, 2); wanted (n, 3)" in source.flow.why


@pytest.mark.parametrize(
    ("setting", "why"),
    [
        ('topic = "a/#/b"', "wildcard"),
        ('topic = "a+"', "wildcard"),
        ('topic = "$share/group/a"', "only some of the samples"),
        ('topic = "a", fields = [""]', "fields"),
        ('topic = "a", stale_seconds = -1', "stale_seconds"),
    ],
)
def test_a_wrong_setting_of_a_source_is_named(tmp_path, setting, why):
    text = f"""
[local_broker]
url = "mqtt://127.0.0.1"
[pipeline.motion]
source = {{ kind = "mqtt", {setting} }}
"""
    with pytest.raises(ConfigError, match=why):
        parse_config(text, folder=tmp_path)


@pytest.mark.parametrize("local", ["", '[local_broker]\nurl = "mqtt://127.0.0.1"\nprefix = ""\n'])
def test_home_assistant_needs_a_broker_to_be_told_by(tmp_path, local):
    with pytest.raises(ConfigError, match=r"needs \[local_broker\] with a prefix"):
        parse_config(f"{local}[home_assistant]\n", folder=tmp_path)
