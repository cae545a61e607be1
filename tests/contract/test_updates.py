"""Records of arrays cut out of Flower messages, and the forms in which they travel."""

import struct

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from zstandard import ZstdCompressor

from agent.contract import updates
from agent.contract.limits import MAX_FLOWER_BYTES
from agent.contract.rounds import Task
from agent.contract.shared_arrays import cut_message, in_chunks, join_message
from agent.contract.tensors import (
    ArrayRecord,
    ConfigRecord,
    FlowerMessage,
    Metadata,
    MetricRecord,
    decode_message,
    encode_message,
)
from agent.errors import MalformedError

COARSE = ("f16", "int8", "int4", "topk:0.05", "topk:1")


def message(arrays, node=7, **records) -> bytes:
    head = Metadata(run_id=1, message_id="m", src_node_id=1, dst_node_id=node, message_type="train")
    content = {"arrays": ArrayRecord(arrays), "config": ConfigRecord({"lr": 0.5}), **records}
    return encode_message(FlowerMessage(metadata=head, content=content))


def record(arrays) -> bytes:
    _, (cut,) = cut_message(message(arrays), least=0)
    return bytes(cut.content)


def some_arrays(seed=0, spread=0.05):
    chance = np.random.default_rng(seed)
    return {
        "weight": chance.normal(0, spread, (37, 61)).astype(np.float32),
        "bias": chance.normal(0, spread, 37).astype(np.float32),
        "steps": np.array([3, 4], np.int64),
        "none": np.zeros((0, 4), np.float32),
    }


def moved(arrays, seed=1, by=0.001):
    step = some_arrays(seed, by)
    return {k: a + step[k] if a.dtype == np.float32 else a + 1 for k, a in arrays.items()}


def arrays_of(content: bytes):
    frame, (cut,) = cut_message(SAME, least=0)
    whole = join_message(frame, [(cut.at, content)])
    return decode_message(whole).content["arrays"].items


SAME = message(some_arrays())


def test_a_message_is_the_same_bytes_after_its_arrays_were_cut_out_and_put_in_again():
    extra = {"running": ArrayRecord(some_arrays(3)), "figures": MetricRecord({"n": 3})}
    whole = message(some_arrays(), **extra)
    frame, cuts = cut_message(whole, least=100)
    assert len(cuts) == 2
    assert len(frame) < 500
    assert join_message(frame, [(c.at, c.content) for c in cuts]) == whole


def test_the_arrays_of_a_send_are_the_same_bytes_for_every_device():
    cuts = [cut_message(message(some_arrays(), node), least=0)[1][0] for node in (7, 2**60)]
    assert len({c.digest for c in cuts}) == 1


def test_small_records_stay_in_their_message():
    frame, cuts = cut_message(SAME, least=10**6)
    assert (frame, cuts) == (SAME, ())


@pytest.mark.parametrize(
    ("frame", "parts"),
    [
        pytest.param(b"ab", [(3, b"x")], id="behind the end"),
        pytest.param(b"ab", [(1, b"xx"), (2, b"y")], id="over the one before"),
        pytest.param(b"ab", [(MAX_FLOWER_BYTES, b"x")], id="beyond the limit"),
    ],
)
def test_a_record_that_cannot_stand_where_it_claims_is_refused(frame, parts):
    with pytest.raises(MalformedError):
        join_message(frame, parts)


@given(st.binary(max_size=400))
@settings(max_examples=200, deadline=None)
def test_cutting_any_bytes_raises_nothing_but_malformed(content):
    try:
        frame, cuts = cut_message(content, least=0)
    except MalformedError:
        return
    assert join_message(frame, [(c.at, c.content) for c in cuts]) == content


def test_lossless_forms_bring_the_very_bytes():
    base, new = record(some_arrays()), record(moved(some_arrays()))
    form, coded = updates.pack(new, base)
    assert form == updates.XOR
    assert updates.unpack(form, coded, len(new), base) == new
    form, alone = updates.pack(new)
    assert updates.unpack(form, alone, len(new), None) == new
    assert len(coded) < len(alone) < len(new)


def test_what_does_not_become_smaller_travels_plainly():
    noise = np.random.default_rng(0).bytes(5000)
    assert updates.pack(noise) == (updates.PLAIN, noise)


@pytest.mark.parametrize("form", COARSE)
def test_a_coarse_form_and_what_it_leaves_out_are_the_difference(form):
    before, after = some_arrays(), moved(some_arrays())
    base, new = record(before), record(after)
    coded, residual = updates.coarsen(form, new, base, seed=1)
    made = arrays_of(updates.unpack(form, coded, len(new), base))
    left = np.frombuffer(residual, np.float32)
    assert np.array_equal(made["steps"], after["steps"])
    flat = np.concatenate([(after[k] - made[k]).ravel() for k in ("weight", "bias")])
    assert np.allclose(flat, left, atol=1e-6)


@pytest.mark.parametrize("form", COARSE)
def test_the_same_seed_codes_the_same_bytes(form):
    base, new = record(some_arrays()), record(moved(some_arrays()))
    first, again = (updates.coarsen(form, new, base, seed=5) for _ in range(2))
    assert first == again


def test_int8_is_a_third_of_the_lossless_form_and_int4_and_top_k_less():
    base, new = record(some_arrays()), record(moved(some_arrays()))
    sizes = [len(updates.coarsen(form, new, base, seed=1)[0]) for form in COARSE[:4]]
    lossless = len(updates.pack(new, base)[1])
    assert [size < lossless for size in sizes] == [True] * 4
    assert sizes[1] < len(new) / 3.5
    assert sizes == sorted(sizes, reverse=True)


def test_what_is_left_out_of_one_round_comes_with_the_next_ones():
    """Without it, top-k would never bring the small differences."""
    base, wanted = record(some_arrays()), some_arrays(9, 0.01)
    sums = {True: np.zeros((37, 61)), False: np.zeros((37, 61))}
    for kept in (True, False):
        residual = b""
        for number in range(30):
            new = record(
                {k: a + wanted[k] if k != "steps" else a for k, a in some_arrays().items()}
            )
            coded, left = updates.coarsen(
                "topk:0.1", new, base, seed=number, residual=residual if kept else b""
            )
            residual = left
            made = arrays_of(updates.unpack("topk:0.1", coded, len(base), base))
            sums[kept] += made["weight"] - some_arrays()["weight"]
    off = {k: np.abs(found / 30 - wanted["weight"]).mean() for k, found in sums.items()}
    assert off[True] < off[False] / 3


def test_rounding_is_unbiased():
    base, new = record(some_arrays()), record(moved(some_arrays()))
    true = moved(some_arrays())["weight"]
    found = np.mean(
        [
            arrays_of(
                updates.unpack(
                    "int4", updates.coarsen("int4", new, base, seed=n)[0], len(new), base
                )
            )["weight"]
            for n in range(200)
        ],
        axis=0,
    )
    assert abs((found - true).mean()) < 2e-6


def test_a_residual_of_another_model_counts_as_none():
    base, new = record(some_arrays()), record(moved(some_arrays()))
    plain = updates.coarsen("int8", new, base, seed=1)
    assert updates.coarsen("int8", new, base, seed=1, residual=b"short") == plain


def test_records_of_other_shapes_are_told_apart():
    here = record({"a": np.zeros((2, 3), np.float32)})
    assert updates.can_differ(here, record({"a": np.ones((2, 3), np.float32)}))
    assert not updates.can_differ(here, record({"a": np.zeros((3, 2), np.float32)}))
    assert not updates.can_differ(here, record({"b": np.zeros((2, 3), np.float32)}))


def test_differences_that_are_not_finite_are_not_sent():
    base = record({"a": np.zeros(3, np.float32)})
    new = record({"a": np.array([1, np.nan, 2], np.float32)})
    with pytest.raises(MalformedError, match="not finite"):
        updates.coarsen("int8", new, base, seed=1)


def zstd(content: bytes) -> bytes:
    return ZstdCompressor().compress(content)


def claims(size: int) -> bytes:
    """Return a zstd frame that says that it holds so many bytes."""
    return b"\x28\xb5\x2f\xfd" + bytes([0b1110_0000]) + struct.pack("<Q", size) + b"\x01\0\0"


NAN = struct.pack("<f", float("nan"))


@pytest.mark.parametrize("form", [*COARSE, "packed", "xor", "f8", ""])
@pytest.mark.parametrize(
    "coded",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"garbage", id="garbage"),
        pytest.param(claims(2**40), id="a claim of 2^40 bytes"),
        pytest.param(zstd(b"")[:-1], id="a frame cut short"),
        pytest.param(zstd(b"\0" * 3), id="too few bytes"),
        pytest.param(zstd(NAN * 3), id="scales that are no numbers"),
        pytest.param(zstd(b"\xff" * 40), id="too many bytes, and a count of 2^32"),
    ],
)
def test_bytes_that_are_no_such_form_are_refused(form, coded):
    base = record({"a": np.ones(8, np.float32)})
    with pytest.raises(MalformedError):
        updates.unpack(form, coded, len(base), base)


def test_a_count_of_top_k_above_the_array_is_refused_before_anything_is_allocated():
    base = record({"a": np.ones(8, np.float32)})
    lie = zstd(struct.pack("<If", 2**32 - 1, 1.0))
    with pytest.raises(MalformedError, match="keeps 4294967295 of 8"):
        updates.unpack("topk:1", lie, len(base), base)


def test_a_difference_without_its_base_is_refused():
    base, new = record(some_arrays()), record(moved(some_arrays()))
    form, coded = updates.pack(new, base)
    for wrong in (None, base[:-1]):
        with pytest.raises(MalformedError, match="without its base"):
            updates.unpack(form, coded, len(new), wrong)


@given(st.sampled_from([*COARSE, "packed", "xor"]), st.binary(max_size=200))
@settings(max_examples=300, deadline=None)
def test_any_frame_raises_nothing_but_malformed(form, content):
    base = record({"a": np.ones(20, np.float32), "b": np.ones(2, np.int32)})
    try:
        assert len(updates.unpack(form, zstd(content), len(base), base)) == len(base)
    except MalformedError:
        return


def test_chunks_are_described_as_those_of_an_artifact():
    content = np.random.default_rng(0).bytes(150_000)
    told = in_chunks(content)
    assert told.count == 3
    assert told.check_chunk(2, content[131_072:]) == content[131_072:]


@pytest.mark.parametrize("updates_asked", ["f32", "f16", "int8", "int4", "topk:0.01", "topk:1"])
def test_a_task_names_how_updates_are_sent(updates_asked):
    assert msgspec.convert(asked(updates_asked), Task).updates == updates_asked


@pytest.mark.parametrize("updates_asked", ["f64", "topk:2", "topk:", "int8\n", "topk:0.12345678"])
def test_a_task_that_names_an_unknown_form_is_refused(updates_asked):
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(asked(updates_asked), Task)


def asked(form: str) -> dict[str, object]:
    return {
        "device": "d-one",
        "run": "run-1",
        "task": "t1",
        "kind": "train",
        "backbone": "a" * 64,
        "digest": "b" * 64,
        "lasts_seconds": 60,
        "updates": form,
    }
