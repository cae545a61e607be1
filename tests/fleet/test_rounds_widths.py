"""Arrays of an app keep the width of their floats, and nothing else is changed."""

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict

from fleet.rounds.widths import Widths


def record(dtype, shape=(2, 3)):
    return ArrayRecord({"w": Array(np.arange(6, dtype=dtype).reshape(shape) / 2)})


def first_sent(dtype):
    widths = Widths()
    content = RecordDict({"arrays": record(dtype)})
    assert widths.narrow(content) is content
    widths.new_push()
    return widths


def test_what_a_strategy_widened_is_sent_as_it_was_at_first():
    widths, own = first_sent(np.float32), record(np.float64)
    sent = widths.narrow(RecordDict({"arrays": own, "config": ConfigRecord({"lr": 0.1})}))
    assert sent["arrays"]["w"].dtype == "float32"
    np.testing.assert_array_equal(sent["arrays"]["w"].numpy(), own["w"].numpy())
    assert sent["config"]["lr"] == 0.1
    assert own["w"].dtype == "float64"


def test_every_message_of_a_push_shares_the_record_that_was_narrowed():
    widths, own = first_sent(np.float32), record(np.float64)
    first, second = (widths.narrow(RecordDict({"arrays": own})) for _ in range(2))
    assert first["arrays"] is second["arrays"]


def test_an_app_of_float64_stays_one():
    widths, content = first_sent(np.float64), RecordDict({"arrays": record(np.float64)})
    assert widths.narrow(content) is content


def test_narrower_floats_numbers_and_other_shapes_are_left_alone():
    for first, now in (
        (record(np.float32), ArrayRecord({"w": Array(np.zeros((2, 3), np.float16))})),
        (ArrayRecord({"w": Array(np.zeros((2, 3), np.int64))}), record(np.float64)),
        (record(np.float32), record(np.float64, (3, 2))),
        (record(np.float32), ArrayRecord({"v": Array(np.zeros((2, 3)))})),
    ):
        widths = Widths()
        widths.narrow(RecordDict({"arrays": first}))
        content = RecordDict({"arrays": now})
        assert widths.narrow(content) is content
