"""Recorders as the operator wishes them, and alarms of sensors, joined."""

from itertools import count

import pytest
from msgspec.structs import replace

from agent.config import ObserveConfig
from agent.config_inference import PipelineConfig, Replay, Subscribed
from agent.contract.telemetry import Window
from agent.daemon.answering import packed
from agent.daemon.watching import Watching, rate_of, recorder_of
from agent.infer.onnx import OnnxRuntime
from agent.infer.pipeline import Ended, Flowing
from agent.observe.inputs import Held
from tests.small_models import CHANNELS, CLASSES, classifier, echo, release_of


def window(number, *, slot="motion", samples=0, looked=1, release="a", **members):
    return Window(
        slot=slot,
        release=release * 64,
        number=number,
        opened_ms=0,
        closed_ms=1_700_000_000_000,
        samples=samples,
        looked=looked,
        **members,
    )


class Room:
    """Watching with its time and its sensors in our hand."""

    def __init__(self, **observe) -> None:
        self.now = 0.0
        self.held = ()
        self.alarms = []
        self.watching = Watching(
            ObserveConfig(**observe),
            held=lambda _: (self.held, 50.0),
            alarm=lambda code, why, slot: self.alarms.append((code, why, slot)),
            monotonic=lambda: self.now,
        )

    def look(self, *windows: Window) -> None:
        self.now += 60.0
        self.watching.look(windows)


def recorder(release, runtime, *, ranges=None, **observe):
    return recorder_of(
        "motion",
        "a" * 64,
        release,
        runtime,
        pipeline=PipelineConfig(ranges=ranges or {}),
        observe=ObserveConfig(**observe),
        now_ms=0,
        numbers=count(),
    )


def test_the_slots_of_a_device_are_judged_apart():
    room = Room(stuck_seconds=10)
    room.held = (Held(channel="ax", value=1.5, seconds=30, windows=20),)
    room.look(window(0), window(0, slot="door"))
    room.look(window(1), window(1, slot="door"))
    assert [(code, slot) for code, _, slot in room.alarms] == [
        ("sensor", "motion"),
        ("sensor", "door"),
    ]


def test_a_swap_of_releases_loses_no_sample_of_the_rate():
    room = Room()
    room.look(window(0, samples=3000))
    room.look(window(1, samples=2000), window(2, samples=1000, release="b"))
    room.look(window(3, samples=3000, release="b"))
    assert room.alarms == []


def test_a_recorder_names_classes_channels_and_what_a_model_without_classes_answers():
    named = recorder(release_of(classifier()), OnnxRuntime(classifier()))
    assert [one.channel for one in named.held()] == list(CHANNELS)
    assert named._outputs == CLASSES
    free = replace(release_of(classifier()), probabilities=None, classes=(), windowing=None)
    unnamed = recorder(free, OnnxRuntime(echo()))
    assert [one.channel for one in unnamed.held()] == ["x[0]", "x[1]", "x[2]"]
    assert unnamed._outputs == ("y[0]", "y[1]", "y[2]")
    assert recorder(free, OnnxRuntime(echo(shape=(1,))))._outputs == ("y",)


def test_a_range_of_no_channel_is_logged_with_those_there_are(caplog):
    recorder(release_of(classifier()), OnnxRuntime(classifier()), ranges={"speed": (0, 1)})
    assert "event=range-of-no-channel slot=motion channel=speed channels=ax,ay,az" in caplog.text


@pytest.mark.parametrize(
    ("source", "flow", "rate"),
    [
        (Replay(path="x.npz", speed=20), Flowing(), 1000.0),
        (Subscribed(topic="t"), Flowing(), 50.0),
        (Subscribed(topic="t"), Ended(), None),
        (None, None, None),
    ],
)
def test_the_rate_that_should_come_is_the_model_s_at_the_speed_of_a_replay(source, flow, rate):
    release = release_of(classifier())
    assert rate_of(release, PipelineConfig(source=source), flow) == rate


def test_windows_travel_in_as_many_messages_as_they_need_and_in_order():
    assert packed(()) == [()]
    large = [window(n, classes=(10**15,) * 1000) for n in range(5)]
    messages = packed(large)
    assert [w.number for message in messages for w in message] == [0, 1, 2, 3, 4]
    assert 1 < len(messages) < 5
    huge = window(9, classes=(10**15,) * 4000)
    assert packed([huge, huge]) == [(huge,), (huge,)]
