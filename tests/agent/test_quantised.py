import numpy as np
import pytest

from agent.infer.quantised import Quantised


def of(dtype, scale=0.5, zero_point=0):
    return Quantised(dtype=np.dtype(dtype), scale=scale, zero_point=zero_point)


@pytest.mark.parametrize(
    ("dtype", "zero_point", "floats", "integers"),
    [
        ("int8", 0, [0, 0.5, -0.5, 1.0], [0, 1, -1, 2]),
        ("int8", 3, [0, 0.5], [3, 4]),
        ("uint8", 128, [0, -64, 63.5], [128, 0, 255]),
        ("int16", -7, [0, 100], [-7, 193]),
    ],
)
def test_floats_become_steps_and_steps_the_same_floats(dtype, zero_point, floats, integers):
    quantised, x = of(dtype, 0.5, zero_point), np.array(floats, np.float32)
    written = quantised.write(x)
    assert written.dtype.name == dtype
    assert written.tolist() == integers
    assert quantised.read(written).dtype == np.float32
    np.testing.assert_array_equal(quantised.read(written), x)


@pytest.mark.parametrize(("dtype", "ends"), [("int8", (-128, 127)), ("uint8", (0, 255))])
def test_what_is_out_of_range_is_the_nearest_end_and_never_wraps(dtype, ends):
    x = np.array([-3.4e38, 3.4e38, -1e4, 1e4], np.float32)
    assert of(dtype).write(x).tolist() == [ends[0], ends[1]] * 2


def test_half_a_step_goes_to_the_even_one():
    x = np.array([0.25, 0.75, 1.25, -0.25], np.float32)
    assert of("int8").write(x).tolist() == [0, 2, 2, 0]


def test_every_step_of_a_byte_is_read_as_the_formula_says():
    for dtype in ("int8", "uint8"):
        q = np.arange(256, dtype=np.uint8).view(dtype).reshape(2, 128)
        wanted = (q.astype(np.float32) - 9) * np.float32(0.031)
        np.testing.assert_array_equal(of(dtype, 0.031, 9).read(q), wanted)


def test_an_array_of_any_layout_is_read_and_written():
    x = np.arange(12, dtype=np.float32).reshape(3, 4).T
    quantised = of("int8", 1.0)
    np.testing.assert_array_equal(quantised.read(quantised.write(x)), x)
    turned = quantised.write(x).copy().T
    np.testing.assert_array_equal(quantised.read(turned), x.T)
    assert quantised.read(quantised.write(np.float32([[7]]).reshape(()))) == 7
