import numpy as np
import pytest

from agent.contract.limits import MAX_CHANNELS_TOLD
from agent.contract.manifest import Tensor, Windowing
from agent.contract.sketch import SignedSketch
from agent.contract.telemetry import Sketch
from agent.observe.inputs import LEAST_TOLD, MAX_VALUES, Looking, channels_of

WINDOWING = Windowing(channels=("acc", "gyro"), samples=50, hop=25, rate_hz=50)


def tensor(name, shape, dtype="float32"):
    return Tensor(name=name, dtype=dtype, shape=shape)


def looking(**options):
    parts = channels_of((tensor("window", (1, 2, 50)),), WINDOWING)
    return Looking(parts, **options)


def window(acc=None, gyro=None, seed=0):
    values = np.random.default_rng(seed).normal(size=(1, 2, 50)).astype(np.float32)
    for row, wanted in enumerate((acc, gyro)):
        if wanted is not None:
            values[0, row] = wanted
    return values


@pytest.mark.parametrize(
    ("inputs", "names"),
    [
        pytest.param((tensor("t", (1, 4)),), ["t[0]", "t[1]", "t[2]", "t[3]"], id="a table"),
        pytest.param((tensor("t", (-1, 2)),), ["t[0]", "t[1]"], id="a table of any length"),
        pytest.param((tensor("image", (1, 3, 32, 32)),), ["image"], id="an image"),
        pytest.param((tensor("t", (1, 1000)),), ["t"], id="a long vector"),
        pytest.param((tensor("t", (-1, -1)),), ["t"], id="a matrix of any size"),
        pytest.param((tensor("t", ()),), ["t"], id="a number"),
        pytest.param(
            (tensor("text", (1,), "string"), tensor("age", (1,), "int64")), ["age"], id="text"
        ),
        pytest.param(
            tuple(tensor(f"t{n}", (1, 30)) for n in range(3)),
            [f"t0[{n}]" for n in range(30)] + ["t1[0]", "t1[1]"],
            id="more than are told",
        ),
    ],
)
def test_a_model_of_any_inputs_has_channels_to_tell_apart(inputs, names):
    found = [name for part in channels_of(inputs, None) for name in part.channels]
    assert found == names
    assert len(found) <= MAX_CHANNELS_TOLD


def test_each_channel_of_a_stream_has_a_sketch_of_its_own():
    seen = looking()
    for seed in range(20):
        seen.look(window(gyro=np.linspace(-250, -200, 50), seed=seed), float(seed))
    looked, (acc, gyro) = seen.close()
    assert (looked, acc.name, gyro.name) == (20, "acc", "gyro")
    assert SignedSketch.read(acc.values).total == SignedSketch.read(gyro.values).total == 1000
    assert SignedSketch.read(gyro.values).quantile(0.5) == pytest.approx(-225, rel=0.06)
    assert SignedSketch.read(acc.values).quantile(0.5) == pytest.approx(0, abs=0.1)
    assert seen.close() == (0, ())


def test_inputs_by_name_are_looked_at_where_they_are_numbers():
    parts = channels_of((tensor("a", (1, 2), "int32"), tensor("b", (1, 3, 2, 2))), None)
    seen = Looking(parts)
    seen.look({"a": np.array([[3, -4]], np.int32), "b": np.ones((1, 3, 2, 2), np.float16)}, 0.0)
    seen.look({"b": np.array(["text"], object), "other": np.ones(1)}, 1.0)
    seen.look({"a": np.zeros((0, 2), np.int32)}, 2.0)
    for number in range(3, 60):
        seen.look({"a": np.array([[3, -4]], np.int32)}, float(number))
    looked, channels = seen.close()
    totals = [(c.name, SignedSketch.read(c.values).total) for c in channels]
    assert (looked, totals) == (60, [("a[0]", 58), ("a[1]", 58), ("b", 0)])


def test_a_sketch_of_few_values_is_not_told_before_there_are_more():
    seen = Looking(channels_of((tensor("t", (1, 2)),), None))
    for number in range(LEAST_TOLD - 1):
        seen.look(np.array([[number, 5.0]]), float(number))
        looked, channels = seen.close()
        assert looked == 1
        assert [SignedSketch.read(c.values).total for c in channels] == [0, 0]
    seen.look(np.array([[7.0, 5.0]]), 99.0)
    _, channels = seen.close()
    assert [SignedSketch.read(c.values).total for c in channels] == [LEAST_TOLD] * 2
    seen.look(np.array([[7.0, 5.0]]), 100.0)
    assert [c.values for c in seen.close()[1]] == [Sketch()] * 2


def test_of_a_large_input_only_some_values_are_counted():
    seen = Looking(channels_of((tensor("image", (1, 3, 300, 300), "uint8"),), None))
    seen.look(np.full((1, 3, 300, 300), 128, np.uint8), 0.0)
    _, (image,) = seen.close()
    assert MAX_VALUES / 2 < SignedSketch.read(image.values).total <= MAX_VALUES


def test_values_outside_the_declared_range_are_counted():
    seen = looking(ranges={"acc": (-2.0, 2.0)})
    seen.look(window(acc=np.r_[np.zeros(40), np.full(10, 2.5)], gyro=99.0), 0.0)
    seen.look(window(acc=np.linspace(-2, 2, 50), gyro=-99.0), 1.0)
    _, (acc, gyro) = seen.close()
    assert (acc.outside, gyro.outside) == (10, 0)


def test_a_refused_window_names_its_channel():
    seen = looking()
    seen.refuse(window(gyro=np.nan))
    seen.refuse(window(gyro=np.inf))
    looked, (acc, gyro) = seen.close()
    assert (looked, acc.not_finite, gyro.not_finite) == (0, 0, 2)


def test_a_channel_that_stands_still_is_remembered_from_its_first_window():
    seen = looking()
    seen.look(window(), 10.0)
    for moment in (11.0, 12.0, 13.0):
        seen.look(window(gyro=0.25, seed=int(moment)), moment)
    acc, gyro = seen.held(15.0)
    assert (gyro.value, gyro.seconds, gyro.windows, gyro.longest) == (0.25, 4.0, 3, 0.0)
    assert (acc.seconds, acc.windows) == (0.0, 0)
    seen.look(window(gyro=0.5), 16.0)
    _, gyro = seen.held(17.0)
    assert (gyro.value, gyro.seconds, gyro.windows, gyro.longest) == (0.5, 1.0, 1, 5.0)
    seen.look(window(), 20.0)
    _, gyro = seen.held(21.0)
    assert (gyro.seconds, gyro.windows, gyro.longest) == (0.0, 0, 5.0)
    _, (acc, gyro) = seen.close()
    assert (acc.constant, gyro.constant) == (0, 4)


def test_one_look_that_was_disturbed_does_not_end_all_looking():
    seen = looking(share=0.01)
    seen.look(window(), 0.0)
    seen.paid(30_000)
    seen.look(window(), 0.0)
    seen.paid(50_000_000)
    looks = 0
    for _ in range(1000):
        seen.earn(5_000_000)
        if seen.is_due(0.5):
            seen.look(window(), 0.5)
            seen.paid(30_000)
            looks += 1
    assert 500 < looks < 1000
