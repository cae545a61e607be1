import json
import threading
import time

import numpy as np
import pytest

from agent.errors import ConfigError, MalformedError
from agent.infer.onnx import OnnxRuntime
from agent.infer.pipeline import Broken, Ended, Flowing, Pipeline
from agent.infer.pushed import MAX_WAITING_PAYLOADS, Pushed, read_samples
from agent.infer.serving import Loaded, Serving
from agent.infer.sources import (
    Called,
    Recording,
    Replay,
    load_recording,
    named_callable,
)
from agent.observe.windows import WindowRecorder
from tests.small_models import SAMPLES, classifier, release_of

DIGEST = "1" * 64


def stream(number=64):
    return np.random.default_rng(3).normal(size=(number, 3)).astype(np.float32)


def recording(number=64, rate_hz=50.0):
    return Recording(samples=stream(number), rate_hz=rate_hz)


class Slot:
    """A pipeline with its answers, and an event that is set when the source is at its end."""

    def __init__(self, source) -> None:
        self.answers = []
        self.ended = threading.Event()
        self.enough = threading.Event()
        self.ends = []
        self.serving = Serving([self._hear])
        self.wanted = 1
        release = release_of(classifier())
        recorder = WindowRecorder("motion", DIGEST, 3, now_ms=0)
        self.serving.serve(
            Loaded(
                digest=DIGEST,
                release=release,
                runtime=OnnxRuntime(classifier()),
                observer=recorder,
            )
        )
        self.pipeline = Pipeline("motion", source, self.serving, self._end)

    def _hear(self, answer):
        self.answers.append(answer)
        if len(self.answers) >= self.wanted:
            self.enough.set()

    def _end(self, end):
        self.ends.append(end)
        self.ended.set()


def test_a_recording_becomes_answers_and_then_ends():
    slot = Slot(Replay(recording(), speed=1000))
    slot.pipeline.start()
    assert slot.ended.wait(10)
    assert slot.pipeline.stop()
    assert slot.pipeline.flow == Ended()
    assert slot.ends == [Ended()]
    assert [a.window for a in slot.answers] == list(range((64 - SAMPLES) // 4 + 1))
    direct = OnnxRuntime(classifier())
    for number, answer in enumerate(slot.answers):
        x = np.ascontiguousarray(stream()[4 * number : 4 * number + SAMPLES].T)[None]
        np.testing.assert_array_equal(answer.outputs[0], direct.infer(x)[0])


def test_a_looped_recording_goes_on_without_a_window_over_the_seam():
    slot = Slot(Replay(recording(10), speed=1000, loop=True))
    slot.wanted = 30
    slot.pipeline.start()
    assert slot.enough.wait(10)
    assert slot.pipeline.flow == Flowing()
    assert slot.pipeline.stop()
    first = [a.outputs[0].tobytes() for a in slot.answers]
    assert len(set(first)) == 1  # ten samples hold one window, and only that one comes again


def test_a_replay_keeps_the_rate_of_its_recording():
    slot = Slot(Replay(recording(number=1000, rate_hz=50.0), speed=100.0))
    started = time.monotonic()
    slot.pipeline.start()
    assert slot.ended.wait(30)
    assert 0.19 <= time.monotonic() - started < 10  # twenty seconds of samples


def test_a_replay_stops_in_the_middle_of_a_wait():
    slot = Slot(Replay(recording(rate_hz=0.001)))
    slot.pipeline.start()
    assert slot.pipeline.stop(5)
    assert slot.ends == [Ended()]


def test_pushed_payloads_of_both_kinds_become_one_stream():
    source = Pushed(3)
    slot = Slot(source)
    slot.wanted = 2
    slot.pipeline.start()
    samples = stream(12)
    source.push(samples[:5].astype("<f4").tobytes())
    source.push(json.dumps(samples[5:11].tolist()).encode())
    source.push(json.dumps(samples[11].tolist()).encode())
    assert slot.enough.wait(10)
    assert slot.pipeline.stop()
    x = np.ascontiguousarray(samples[4:12].T)[None]
    np.testing.assert_array_equal(slot.answers[1].outputs[0], OnnxRuntime(classifier()).infer(x)[0])


def test_a_malformed_payload_is_counted_and_the_stream_goes_on():
    source = Pushed(3)
    slot = Slot(source)
    slot.pipeline.start()
    for payload in (b"", b"hello", b"[1,2]", b"\xff\x00", stream(SAMPLES).tobytes()):
        source.push(payload)
    assert slot.enough.wait(10)
    assert slot.pipeline.stop()
    assert source.flow.malformed == 4
    assert "not float32 samples of 3 channels" in source.flow.why


def test_payloads_that_nobody_reads_are_dropped_oldest_first_and_counted():
    source = Pushed(1)
    for number in range(MAX_WAITING_PAYLOADS + 3):
        source.push(np.array([number], "<f4").tobytes())
    assert source.flow.dropped == 3
    blocks = source.blocks(threading.Event())
    assert next(blocks) is None  # the drop is a break in the stream
    assert next(blocks).tolist() == [[3.0]]


def three_samples():
    yield [1, 2, 3]
    yield None
    yield np.zeros((2, 3))


def test_a_callable_yields_single_samples_blocks_and_breaks():
    source = Called(three_samples)
    blocks = list(source.blocks(threading.Event()))
    assert blocks[0].tolist() == [[1.0, 2.0, 3.0]]
    assert blocks[1] is None
    assert (blocks[2].shape, blocks[2].dtype) == ((2, 3), np.float32)


def test_a_source_that_raises_is_a_state_with_its_reason_and_not_a_crash():
    def broken():
        yield [1, 2, 3]
        raise OSError("the sensor was unplugged")

    slot = Slot(Called(broken))
    slot.pipeline.start()
    assert slot.ended.wait(10)
    assert slot.pipeline.stop()
    match slot.pipeline.flow:
        case Broken(why):
            assert why == "the source of motion raised OSError: the sensor was unplugged"
        case other:
            pytest.fail(f"{other}")
    assert slot.ends == [slot.pipeline.flow]


def test_a_source_that_keeps_its_thread_is_told_to_the_caller_of_stop():
    release = threading.Event()

    def stuck():
        release.wait(30)
        yield [1, 2, 3]

    slot = Slot(Called(stuck))
    slot.pipeline.start()
    assert not slot.pipeline.stop(0.05)
    release.set()
    assert slot.pipeline.stop(10)
    assert not slot.answers


def test_a_pipeline_that_never_started_stops():
    assert Slot(Replay(recording())).pipeline.stop()


def test_a_recording_is_read_from_its_file(tmp_path):
    np.savez(tmp_path / "walk.npz", samples=stream(), rate_hz=np.array(50.0))
    found = load_recording(tmp_path / "walk.npz")
    np.testing.assert_array_equal(found.samples, stream())
    assert found.rate_hz == 50.0


@pytest.mark.parametrize(
    ("members", "sentence"),
    [
        pytest.param({"samples": stream()}, "has no array 'rate_hz'", id="no rate"),
        pytest.param({"samples": stream(), "rate_hz": np.array(0.0)}, "above 0", id="rate 0"),
        pytest.param({"samples": stream(), "rate_hz": np.ones(2)}, "2 rates", id="two rates"),
        pytest.param(
            {"samples": stream().astype(np.float64), "rate_hz": np.array(1.0)},
            "samples of float64",
            id="float64",
        ),
        pytest.param(
            {"samples": np.zeros(4, np.float32), "rate_hz": np.array(1.0)}, "shape", id="flat"
        ),
        pytest.param(
            {"samples": np.array([{}]), "rate_hz": np.array(1.0)}, "Python objects", id="pickle"
        ),
    ],
)
def test_a_recording_that_is_none_is_one_sentence(tmp_path, members, sentence):
    np.savez(tmp_path / "bad.npz", **members)
    with pytest.raises(ConfigError, match=sentence):
        load_recording(tmp_path / "bad.npz")


def test_a_recording_that_is_missing_or_no_npz_is_one_sentence(tmp_path):
    with pytest.raises(ConfigError, match=r"gone\.npz: No such file"):
        load_recording(tmp_path / "gone.npz")
    (tmp_path / "text.npz").write_text("hello")
    with pytest.raises(ConfigError, match=r"not an \.npz"):
        load_recording(tmp_path / "text.npz")


@pytest.mark.parametrize(
    ("target", "sentence"),
    [
        ("no_such_module_here:samples", "cannot be imported"),
        ("math:no_such_function", "cannot be imported"),
        ("math:pi", "is not a function"),
    ],
)
def test_a_callable_that_is_none_is_one_sentence(target, sentence):
    with pytest.raises(ConfigError, match=sentence):
        named_callable(target)


def test_a_callable_is_found_by_its_name():
    assert named_callable("itertools:repeat")(1) is not None


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"[]",
        b"[[1,2,3],[1,2]]",
        b'["a","b","c"]',
        b"[[[1,2,3]]]",
        b"null",
        b"[1,2,3",
        b"\x00" * 13,
        b"[1e999,2,3]" * 2,
        b" " * 200_000,
    ],
)
def test_a_payload_that_is_no_samples_is_malformed(payload):
    with pytest.raises(MalformedError):
        read_samples(payload, 3)


def test_another_model_is_read_with_its_own_number_of_channels():
    source = Pushed(3)
    source.push(np.arange(3, dtype="<f4").tobytes())
    blocks = source.blocks(threading.Event())
    assert next(blocks).shape == (1, 3)
    source.push(np.arange(3, dtype="<f4").tobytes())
    source.expect(6)
    source.push(np.arange(6, dtype="<f4").tobytes())
    assert next(blocks) is None  # a break: what follows is not its continuation
    assert next(blocks).tolist() == [[0.0, 1.0, 2.0, 3.0, 4.0, 5.0]]
    source.expect(6)
    source.push(b"[1,2,3,4,5,6]")
    assert next(blocks).shape == (1, 6)
    assert source.flow.malformed == 0
