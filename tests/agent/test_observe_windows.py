from itertools import count

import numpy as np
import pytest

from agent.contract.codec import encode
from agent.contract.histogram import LogHistogram
from agent.contract.limits import MAX_OUTPUTS_TOLD
from agent.contract.manifest import Tensor, Windowing
from agent.contract.sketch import SignedSketch
from agent.observe.inputs import Looking, channels_of
from agent.observe.windows import BLOCK, NARROW_BYTES, SKETCHED, WindowRecorder

WINDOWING = Windowing(channels=("x", "y", "z"), samples=64, hop=32, rate_hz=50)
STREAM = (Tensor(name="window", dtype="float32", shape=(1, 3, 64)),)


def recorder(classes=3, *, share=0.01, outputs=("sit", "walk", "run"), ranges=None):
    looking = Looking(channels_of(STREAM, WINDOWING), ranges=ranges, share=share)
    return WindowRecorder(
        "motion", "a" * 64, classes, now_ms=1000, outputs=outputs, looking=looking
    )


def window(seed=0):
    return np.random.default_rng(seed).normal(size=(1, 3, 64)).astype(np.float32)


def probabilities(number):
    row = np.full((1, 3), 0.05, np.float32)
    row[0, number % 3] = 0.9
    return row


def test_answers_that_are_read_by_blocks_are_counted_like_those_read_at_once():
    noted, recorded = recorder(), recorder()
    for number in range(3 * BLOCK + 10):
        noted.note(100_000 + number, probabilities(number), window())
        recorded.record(100 + number / 1000, 0.9, number % 3)
    one, other = noted.close(2000), recorded.close(2000)
    assert (one.inferences, one.classes) == (other.inferences, other.classes)
    assert one.latency_us == other.latency_us
    assert one.inferences == 3 * BLOCK + 10
    assert LogHistogram.read(one.confidence).quantile(0.5) == pytest.approx(0.9, rel=0.02)


def test_an_answer_that_holds_no_probability_counts_as_failed():
    recording = recorder()
    for bad in (np.nan, np.inf, 1.5, -0.5):
        row = np.full((1, 3), -1.0, np.float32)
        row[0, 1] = bad
        recording.note(1000, row, window())
    recording.note(1000, probabilities(0), window())
    closed = recording.close(2000)
    assert (closed.inferences, closed.failed, closed.classes) == (1, 4, (1, 0, 0))
    assert LogHistogram.read(closed.latency_us).total == 1


def test_the_probability_of_each_class_has_a_sketch():
    recording = recorder()
    for number in range(2 * BLOCK):
        recording.note(1000, probabilities(number), window())
    outputs = {one.name: SignedSketch.read(one.values) for one in recording.close(2).outputs}
    assert list(outputs) == ["sit", "walk", "run"]
    assert outputs["walk"].quantile(0.1) == pytest.approx(0.05, rel=0.06)
    assert outputs["walk"].quantile(0.9) == pytest.approx(0.9, rel=0.06)
    assert outputs["sit"].total == 2 * SKETCHED


def test_a_model_without_classes_has_sketches_of_its_first_outputs_of_either_sign():
    recording = recorder(0, outputs=[f"y[{n}]" for n in range(20)])
    for number in range(BLOCK):
        row = np.full((1, 20), -3.5, np.float32)
        row[0, 1] = number
        recording.note(1000, row, window())
    recording.note(1000, np.full((1, 20), np.nan, np.float32), window())
    closed = recording.close(2)
    assert [one.name for one in closed.outputs] == [f"y[{n}]" for n in range(MAX_OUTPUTS_TOLD)]
    assert SignedSketch.read(closed.outputs[0].values).quantile(0.5) == pytest.approx(-3.5, rel=0.1)
    assert (closed.inferences, closed.failed, closed.classes) == (BLOCK, 1, ())


@pytest.mark.parametrize("classes", [0, 1000])
def test_answers_of_many_values_are_counted_without_being_kept(classes):
    recording = recorder(classes, outputs=["y[0]"])
    row = np.zeros((1, 1000), np.float32)
    row[0, 7] = 0.75
    assert row.nbytes > NARROW_BYTES
    for _ in range(10):
        recording.note(5_000_000, row, window())
    if classes:
        recording.note(5_000_000, row * np.nan, window())
    assert len(recording._rows) <= 10 * 4 * MAX_OUTPUTS_TOLD
    closed = recording.close(2)
    assert (closed.inferences, closed.failed) == (10, 1 if classes else 0)
    assert closed.classes == (tuple([0] * 7 + [10] + [0] * 992) if classes else ())
    assert closed.looked >= 1
    assert SignedSketch.read(closed.outputs[0].values).total >= 1


def test_an_output_of_changing_length_is_counted_for_its_latency():
    recording = recorder(3)
    for rows in (1, 2, 1, 3):
        recording.note(1000, np.concatenate([probabilities(1)] * rows), window())
    closed = recording.close(2)
    assert (closed.inferences, closed.failed, closed.classes) == (4, 0, (0, 2, 0))


@pytest.mark.parametrize("classes", [0, 3])
def test_an_output_without_a_value_is_counted_for_its_latency(classes):
    recording = recorder(classes)
    for _ in range(5):
        recording.note(2000, np.zeros((0, 3), np.float32), window())
    closed = recording.close(2)
    assert (closed.inferences, closed.failed, sum(closed.classes)) == (5, 0, 0)
    assert LogHistogram.read(closed.latency_us).total == 5
    assert LogHistogram.read(closed.confidence).total == 0


def test_texts_are_counted_for_their_latency():
    recording = recorder(0)
    for _ in range(5):
        recording.note(2000, np.array([["yes"]], object), window())
    closed = recording.close(2)
    assert (closed.inferences, closed.outputs) == (5, ())


def test_what_a_stream_gave_and_what_was_left_out_is_counted_and_then_forgotten():
    recording = recorder()
    recording.take(50)
    recording.take(25)
    recording.gap()
    recording.skip()
    told = recording.close(2)
    assert (told.samples, told.gaps, told.skipped) == (75, 1, 1)
    again = recording.close(3)
    assert (again.samples, again.gaps, again.skipped, again.number) == (0, 0, 0, 1)


def test_sketches_add_up_until_it_is_time_to_tell_them(monkeypatch):
    clock = [100.0]
    monkeypatch.setattr("agent.observe.windows.monotonic", lambda: clock[0])
    looking = Looking(channels_of(STREAM, WINDOWING))
    recording = WindowRecorder(
        "motion", "a" * 64, 3, now_ms=0, outputs=["sit"], looking=looking, sketch_seconds=600
    )

    def minute(*, last=False):
        clock[0] += 60.0
        recording.note(20_000, probabilities(0), window())
        return recording.close(1, last=last)

    quiet = [minute() for _ in range(9)]
    assert {(w.looked, w.inputs, w.outputs) for w in quiet} == {(0, (), ())}
    assert [w.inferences for w in quiet] == [1] * 9
    told = minute()
    assert told.looked == 10
    assert SignedSketch.read(told.inputs[0].values).total == 640
    assert SignedSketch.read(told.outputs[0].values).total == 10
    assert minute().looked == 0
    assert minute(last=True).looked == 2


def test_a_channel_that_is_not_finite_is_told_at_once():
    recording = recorder()
    recording._sketch_seconds = 600.0
    recording.refuse(np.full((1, 3, 64), np.nan, np.float32))
    assert [channel.not_finite for channel in recording.close(1).inputs] == [1, 1, 1]


@pytest.mark.slow
def test_a_fast_stream_is_looked_at_within_its_share_and_a_slow_one_once_a_second(monkeypatch):
    clock = [100.0]
    monkeypatch.setattr("agent.observe.windows.monotonic", lambda: clock[0])
    ticks = count(0, 30_000)  # each look takes 30 µs
    monkeypatch.setattr("agent.observe.windows.perf_counter_ns", lambda: next(ticks))
    fast = recorder(share=0.01)
    for _ in range(20 * BLOCK):
        clock[0] += 20e-6
        fast.note(20_000, probabilities(0), window())
    # 20 blocks are 102 ms of inference, a hundredth of it 34 looks: one at most in each block
    assert 15 < fast.close(2).looked <= 22
    slow = recorder(share=0.01)
    for _ in range(20):
        clock[0] += 1.0
        slow.note(20_000, probabilities(0), window())
    assert slow.close(2).looked == 20


def test_a_share_of_nothing_never_looks():
    recording = recorder(share=0.0)
    recording.note(10**9, probabilities(0), window())
    closed = recording.close(2)
    assert (closed.looked, closed.inputs) == (0, ())


def test_the_windows_of_a_day_are_bounded_in_bytes_whatever_they_hold():
    recording = recorder()
    rng = np.random.default_rng(1)
    for _ in range(5000):
        wild = rng.choice([-1, 1], (1, 3, 64)) * np.exp(rng.uniform(-13, 20, (1, 3, 64)))
        recording._looking.look(wild.astype(np.float32), 0.0)
    for channel in recording.close(2).inputs:
        assert len(encode(channel)) < 900
