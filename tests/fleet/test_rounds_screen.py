"""What a device may not answer: each is refused alone, with a sentence that names it."""

import numpy as np
import pytest

from agent.contract import wireformat as wire
from agent.contract.tensors import (
    ArrayRecord,
    Failure,
    FlowerMessage,
    Metadata,
    MetricRecord,
    decode_message,
    encode_message,
)
from agent.errors import MalformedError
from fleet.rounds import engine
from fleet.rounds.events import Answered, Posted, Pushed
from fleet.rounds.norms import too_long
from fleet.rounds.screen import screen_reply
from fleet.rounds.sends import node_of, task_name
from tests.small_rounds import plan

SHAPE = (3, 4)


def metadata(**changes):
    fields = {"run_id": 5, "message_id": "1.7", "src_node_id": 1, "dst_node_id": 7}
    return Metadata(**{**fields, "message_type": "train", **changes})


def question(kind="train"):
    arrays = {"weight": np.ones(SHAPE, np.float32), "bias": np.zeros(3, np.float32)}
    told = metadata(message_type=kind)
    return encode_message(FlowerMessage(metadata=told, content={"arrays": ArrayRecord(arrays)}))


def reply(weight=None, metrics=None, *, content=None, **changes):
    arrays = {
        "weight": np.full(SHAPE, 2, np.float32) if weight is None else weight,
        "bias": np.zeros(3, np.float32),
    }
    told = {"message_id": "", "reply_to_message_id": "1.7", "src_node_id": 7, "dst_node_id": 1}
    made = {
        "arrays": ArrayRecord(arrays),
        "metrics": MetricRecord(metrics or {"num-examples": 20, "loss": 0.5}),
    }
    return encode_message(
        FlowerMessage(metadata=metadata(**{**told, **changes}), content=content or made)
    )


def test_a_good_reply_passes_with_the_length_of_its_step():
    screened = screen_reply(reply(), question())
    assert screened.norm == pytest.approx(np.sqrt(12))
    assert screened.message.metadata.reply_to_message_id == "1.7"


def test_a_judgement_has_no_length():
    metrics = {"metrics": MetricRecord({"num-examples": 4, "accuracy": 1.0})}
    assert (
        screen_reply(reply(content=metrics, message_type="evaluate"), question("evaluate")).norm
        is None
    )


STRAIGHT = np.full(SHAPE, 2, np.float32)


@pytest.mark.parametrize(
    ("made", "sentence"),
    [
        pytest.param(reply(STRAIGHT[:2].copy()), r"float32 \(2, 4\)", id="another shape"),
        pytest.param(reply(STRAIGHT[:1].copy()), r"float32 \(1, 4\)", id="a shape that broadcasts"),
        pytest.param(reply(np.float32(2).reshape(())), r"float32 \(\)", id="a scalar"),
        pytest.param(reply(STRAIGHT.astype(np.float64)), "float64", id="another dtype"),
        pytest.param(reply(STRAIGHT.astype(np.int32)), "int32", id="whole numbers"),
        pytest.param(reply(STRAIGHT * np.nan), "'weight' holds values that are not", id="NaN"),
        pytest.param(reply(STRAIGHT * -np.inf), "'weight' holds values that are not", id="Inf"),
        pytest.param(reply(metrics={"num-examples": 10**18}), "is 1000000000000000000", id="1e18"),
        pytest.param(reply(metrics={"num-examples": 0}), "num-examples is 0;", id="0"),
        pytest.param(reply(metrics={"num-examples": -1}), "num-examples is -1;", id="-1"),
        pytest.param(reply(metrics={"num-examples": True}), "num-examples is True;", id="a truth"),
        pytest.param(reply(metrics={"num-examples": 20.0}), "whole number", id="a float"),
        pytest.param(reply(metrics={"num-examples": (20, 20)}), "whole number", id="a list"),
        pytest.param(reply(metrics={"loss": 0.5}), "num-examples is None", id="no weight"),
        pytest.param(
            reply(metrics={"num-examples": 2, "loss": np.nan}), "'loss' is not a", id="a NaN metric"
        ),
        pytest.param(reply(run_id=6), "belongs to run 6; asked was run 5", id="another run's"),
        pytest.param(
            reply(reply_to_message_id="2.7"), "answers message '2.7'", id="another round's"
        ),
        pytest.param(reply(reply_to_message_id=""), "answers message ''", id="nobody's"),
        pytest.param(reply(message_type="evaluate"), "a evaluate reply", id="another kind"),
        pytest.param(reply(content=Failure(3, "no windows")), "failed: no windows", id="a failure"),
        pytest.param(
            reply(content={"metrics": MetricRecord({"num-examples": 2})}), "holds arrays", id="none"
        ),
        pytest.param(question(), "answers message", id="the question itself"),
        pytest.param(b"", "without metadata", id="nothing"),
        pytest.param(b"\xff" * 200, "longer than 64 bits", id="garbage"),
        pytest.param(reply()[:-9], "cut short", id="a reply cut short"),
    ],
)  # fmt: skip
def test_a_bad_reply_is_refused(made, sentence):
    with pytest.raises(MalformedError, match=sentence):
        screen_reply(made, question())


def claiming(elements):
    """A reply whose array claims so many elements, in both places, over eight bytes."""
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({elements},), }}\n".encode()
    npy = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + bytes(8)
    array = (
        wire.write_text(1, "float32")
        + wire.write_field(2, wire.write_varint(elements))
        + wire.write_text(3, "numpy.ndarray")
        + wire.write_field(4, npy)
    )
    item = wire.write_field(1, wire.write_text(1, "weight") + wire.write_field(2, array))
    record = wire.write_field(1, wire.write_text(1, "arrays") + wire.write_field(2, item))
    head = reply(content={})
    _, told = next(wire.read_fields(memoryview(head)))
    return wire.write_field(1, bytes(told)) + wire.write_field(2, record)


def test_a_header_that_claims_two_to_the_fortieth_elements_is_refused_by_its_word():
    assert decode_message(claiming(2)).content["arrays"].items["weight"].shape == (2,)
    with pytest.raises(MalformedError, match="1099511627776 elements is over"):
        screen_reply(claiming(2**40), question())


def test_a_step_far_longer_than_the_median_is_named_with_both_lengths():
    norms = {"t-a": 1.0, "t-b": 1.25, "t-c": 12.0, "t-d": 1.5, "t-e": 7.5}
    assert too_long(norms, 5) == {
        "t-c": "its step of length 12 is over 5 times the round's median of 1.5"
    }


def test_two_updates_have_no_majority_and_a_median_of_nothing_bounds_nobody():
    assert not too_long({"t-a": 1.0, "t-b": 1e9}, 2)
    assert not too_long({"t-a": 0.0, "t-b": 0.0, "t-c": 3.0}, 2)


DEVICES = tuple(f"d-{n}" for n in range(5))


def closed_round(norms, **changes):
    """The state after one round in which each device answered with a step of a length."""
    asked = plan(**{"participants": DEVICES, "max_norm": 10.0, **changes})
    posted = [
        Posted(task=task_name(asked.run, 1, d), device=d, kind="train", digest="ab" * 32)
        for d in sorted(DEVICES, key=node_of)
    ]
    state, _ = engine.step(
        asked, engine.RunState(), Pushed(ordinal=1, tasks=tuple(posted), at_ms=1)
    )
    for task in posted:
        event = Answered(task=task.task, outcome="done", norm=norms[task.device], at_ms=2)
        state, effects = engine.step(asked, state, event)
    return state, effects


def test_a_round_closes_without_the_steps_that_are_too_long():
    norms = dict.fromkeys(DEVICES, 1.0) | {"d-3": 60.0}
    state, effects = closed_round(norms)
    (send,) = state.sends
    assert (state.replies, state.refused) == (4, 1)
    assert send.outliers == {
        task_name(
            "run-1", 1, "d-3"
        ): "its step of length 60 is over 10 times the round's median of 1"
    }
    assert effects == (engine.Deliver(1),)


def test_a_round_with_too_few_steps_left_fails_with_why():
    norms = dict.fromkeys(DEVICES, 1.0) | {"d-3": 60.0}
    state, _ = closed_round(norms, minimum_replies=5)
    assert (state.status, "over 10 times" in state.why) == ("failed", True)


def test_without_a_bound_every_step_counts():
    state, _ = closed_round(dict.fromkeys(DEVICES, 1.0) | {"d-3": 1e9}, max_norm=None)
    assert (state.replies, dict(state.sends[0].outliers)) == (5, {})
