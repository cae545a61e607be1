"""What a Flower program ends with becomes a candidate only if it is a head, and finite."""

import numpy as np
import pytest

from agent.contract.tensors import ArrayRecord, FlowerMessage, Metadata, encode_message
from fleet.errors import RefusedError
from fleet.rounds.heads import read_final
from tests.small_rounds import running_head

HEAD = running_head()


def final(**arrays) -> bytes:
    metadata = Metadata(
        run_id=1, message_id="m", src_node_id=1, dst_node_id=1, message_type="train", created_at=1.0
    )
    whole = {"weight": HEAD.weight, "bias": HEAD.bias, **arrays}
    record = ArrayRecord({name: array for name, array in whole.items() if array is not None})
    return encode_message(FlowerMessage(metadata=metadata, content={"arrays": record}))


def test_a_whole_head_is_read_as_it_is():
    made = read_final(final(bias=HEAD.bias + 1), HEAD)
    np.testing.assert_array_equal(made.weight, HEAD.weight)
    np.testing.assert_array_equal(made.bias, HEAD.bias + 1)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (
            final(weight=np.full_like(HEAD.weight, np.nan)),
            "weight holds values that are not finite",
        ),
        (final(bias=np.full_like(HEAD.bias, np.inf)), "bias holds values that are not finite"),
        (final(weight=HEAD.weight[:, :-1].copy()), "aggregate's weight is float32"),
        (final(bias=HEAD.bias.astype(np.float64)), "aggregate's bias is float64"),
        (final(bias=None), "not a head"),
        (final(extra=HEAD.bias), "not a head"),
        (b"", "does not parse"),
        (b"\xff", "does not parse"),
    ],
)
def test_anything_else_is_refused_with_a_sentence(content, sentence):
    with pytest.raises(RefusedError, match=sentence):
        read_final(content, HEAD)
