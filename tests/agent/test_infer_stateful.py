import msgspec
import numpy as np
import pytest
from onnx import TensorProto

from agent.contract.codec import decode, encode
from agent.contract.manifest import State, Tensor, Variant, describe_artifact
from agent.errors import (
    BrokenStateError,
    InputRefusedError,
    MalformedError,
    ModelError,
    WrongTensorsError,
)
from agent.infer import stateful
from agent.infer.loaded import Loaded
from agent.infer.onnx import OnnxRuntime
from agent.infer.requests import Request, Stream
from agent.infer.serving import Serving
from agent.infer.stateful import Memory, Stateful
from agent.infer.variants import load
from agent.observe.windows import WindowRecorder
from tests.small_models import digest_of, recurrent, release_of, write_model

STATES = (State(input="h_in", output="h_out"),)


def summing(**members):
    return Stateful(OnnxRuntime(recurrent(**members)), STATES)


def loaded(version="1", runtime=None):
    release = release_of(recurrent(), version=version)
    release = msgspec.structs.replace(
        release, windowing=None, classes=(), probabilities=None, head=None
    )
    digest = digest_of(release)
    recorder = WindowRecorder("motion", digest, 0, now_ms=0)
    model = runtime or summing()
    return Loaded(digest=digest, release=release, runtime=model, observer=recorder)


def one(*numbers: float):
    return {"x": np.array([numbers], np.float32)}


def ask(serving, *numbers: float, stream=None):
    return serving.request(Request(inputs=one(*numbers), stream=stream))


def total(serving, *numbers: float, stream=None):
    return ask(serving, *numbers, stream=stream).outputs["sum"].tolist()[0]


def test_the_tensors_of_states_are_neither_asked_of_callers_nor_given_to_them():
    model = summing()
    assert [t.name for t in model.inputs] == ["x"]
    assert [t.name for t in model.outputs] == ["sum"]
    assert list(model.infer_named(one(1, 2))) == ["sum"]
    with pytest.raises(InputRefusedError, match="wanted \\['x'\\]"):
        model.infer_named({**one(1, 2), "h_in": np.zeros((1, 2), np.float32)})
    serving = Serving(slot="motion")
    serving.serve(loaded())
    assert serving.offered().stateful


def test_a_stream_keeps_its_state_across_requests_and_loses_it_on_request():
    serving = Serving(slot="motion")
    serving.serve(loaded())
    a, b = Stream(id="a"), Stream(id="b")
    assert total(serving, 1, 10, stream=a) == [1, 10]
    assert total(serving, 1, 10, stream=a) == [2, 20]
    assert total(serving, 5, 5, stream=b) == [5, 5]
    assert total(serving, 1, 10, stream=a) == [3, 30]
    assert total(serving, 1, 10, stream=Stream(id="a", starts=True)) == [1, 10]
    assert total(serving, 1, 10, stream=Stream(id="a", ends=True)) == [2, 20]
    assert total(serving, 1, 10, stream=a) == [1, 10]
    assert total(serving, 5, 5, stream=b) == [10, 10]


def test_a_request_without_a_stream_begins_afresh_and_disturbs_none():
    serving = Serving(slot="motion")
    serving.serve(loaded())
    assert total(serving, 1, 1, stream=Stream(id="a")) == [1, 1]
    assert total(serving, 7, 7) == [7, 7]
    assert total(serving, 7, 7) == [7, 7]
    assert total(serving, 1, 1, stream=Stream(id="a")) == [2, 2]


def test_a_response_says_whether_its_stream_began_with_it():
    serving = Serving(slot="motion")
    serving.serve(loaded())
    stream = Stream(id="a")
    assert [ask(serving, 1, 1, stream=stream).began for _ in range(3)] == [True, False, False]
    serving.serve(loaded("2"))
    assert ask(serving, 1, 1, stream=stream).began
    assert ask(serving, 1, 1).began


def test_a_swap_forgets_every_stream_and_a_model_that_stays_does_not():
    serving = Serving(slot="motion")
    old, new = loaded("1"), loaded("2")
    serving.serve(old)
    stream = Stream(id="a")
    assert total(serving, 1, 1, stream=stream) == [1, 1]
    serving.serve(new, old)  # on probation, each with its own state
    assert total(serving, 1, 1, stream=stream) == [1, 1]
    assert total(serving, 1, 1, stream=stream) == [2, 2]
    serving.serve(old)
    assert total(serving, 1, 1, stream=stream) == [4, 4]


def test_the_slots_own_source_keeps_a_state_until_its_stream_breaks():
    answers = []
    serving = Serving([answers.append], slot="motion")
    model = loaded()
    serving.serve(model)
    serving.take(np.ones((3, 2), np.float32))
    total(serving, 9, 9, stream=Stream(id="a"))
    serving.take(np.ones((1, 2), np.float32))
    serving.gap()
    serving.take(np.ones((2, 2), np.float32))
    assert [a.outputs[0].tolist()[0][0] for a in answers] == [1, 2, 3, 4, 1, 2]
    assert model.observer.close(1).inferences == 7


def test_the_model_beside_sees_the_same_stream_in_a_state_of_its_own():
    serving = Serving(slot="motion")
    model, beside = loaded("1"), loaded("2")
    serving.serve(model, beside)
    for _ in range(4):
        serving.take(np.ones((1, 2), np.float32))
    ask(serving, 1, 1, stream=Stream(id="a"))
    assert serving.comparison().windows == 5
    serving.serve(beside)
    assert total(serving, 1, 1, stream=Stream(id="a")) == [2, 2]


def test_a_refused_request_leaves_the_state_as_it_was():
    serving = Serving(slot="motion")
    serving.serve(loaded())
    stream = Stream(id="a")
    total(serving, 1, 1, stream=stream)
    with pytest.raises(InputRefusedError, match="a NaN"):
        ask(serving, np.nan, 1, stream=stream)
    with pytest.raises(InputRefusedError, match="of shape"):
        ask(serving, 1, 1, 1, stream=stream)
    assert total(serving, 1, 1, stream=stream) == [2, 2]


def test_a_state_that_became_infinite_is_forgotten_and_said():
    serving = Serving(slot="motion")
    model = loaded()
    serving.serve(model)
    stream, huge = Stream(id="a"), 3e38
    total(serving, huge, 0, stream=stream)
    with np.errstate(over="ignore"), pytest.raises(BrokenStateError, match="'h_in' became"):
        ask(serving, huge, 0, stream=stream)
    assert total(serving, 1, 0, stream=stream) == [1, 0]
    serving.take(np.full((3, 2), huge, np.float32))
    figures = model.observer.close(1)
    assert (figures.inferences, figures.failed) == (4, 2)  # the third sample begins anew


def test_streams_are_bounded_in_number_and_the_longest_silent_one_goes_first(monkeypatch):
    monkeypatch.setattr(stateful, "MAX_STREAMS", 3)
    memory = Memory(summing())
    for name in ("a", "b", "c", "a", "d"):
        memory.ask(one(1, 1), Stream(id=name))
    assert memory.streams == 3
    assert not memory.ask(one(1, 1), Stream(id="a"))[1]
    assert memory.ask(one(1, 1), Stream(id="b"))[1]


def test_streams_are_bounded_in_bytes_and_by_their_silence(monkeypatch):
    monkeypatch.setattr(stateful, "MAX_STATE_BYTES", 20)  # two states of 8 bytes
    now = [0.0]
    memory = Memory(summing(), lambda: now[0])
    for name in "abc":
        memory.ask(one(1, 1), Stream(id=name))
    assert memory.streams == 2
    now[0] = stateful.IDLE_SECONDS + 1
    assert memory.ask(one(1, 1), Stream(id="c"))[1]
    assert memory.streams == 1
    memory = Memory(summing(rows="n"))
    with pytest.raises(BrokenStateError, match="24 bytes; at most 20"):
        memory.ask({"x": np.ones((3, 2), np.float32)}, Stream(id="wide"))
    assert memory.streams == 0
    with pytest.raises(BrokenStateError, match="the slot's own source has 24 bytes"):
        memory.flow(np.ones((3, 2), np.float32))
    assert memory.flow(np.ones((1, 2), np.float32))[0].tolist() == [[1, 1]]


def test_a_free_first_dimension_of_a_state_counts_the_rows_of_the_input():
    model = summing(rows="n")
    x = np.arange(6, dtype=np.float32).reshape(3, 2)
    assert model.infer_named({"x": x})["sum"].tolist() == x.tolist()


def test_a_stream_goes_on_with_as_many_rows_as_it_began_with():
    memory, x = Memory(summing(rows="n")), np.ones((3, 2), np.float32)
    memory.ask({"x": x}, Stream(id="a"))
    with pytest.raises(InputRefusedError, match="is of 3 rows, and 1 were given"):
        memory.ask({"x": x[:1]}, Stream(id="a"))
    assert memory.ask({"x": x}, Stream(id="a"))[0]["sum"].tolist() == (2 * x).tolist()
    assert memory.ask({"x": x[:1]}, Stream(id="a", starts=True))[1]


def test_the_id_of_a_stream_is_not_as_long_as_one_likes():
    with pytest.raises(InputRefusedError, match="has 201 characters; at most 200"):
        Memory(summing()).ask(one(1, 1), Stream(id="a" * 201))


def test_the_vectors_of_a_stateful_model_are_one_stream():
    answer = summing().one_stream()
    assert [answer(one(1, 2))["sum"].tolist() for _ in range(2)] == [[[1, 2]], [[2, 4]]]


def test_states_of_integers_begin_as_zeros_too():
    model = Stateful(OnnxRuntime(recurrent(dtype=TensorProto.INT64)), STATES)
    answers, kept = model.step({"x": np.array([[1, 2]])}, None)
    assert model.step({"x": np.array([[1, 2]])}, kept)[0]["sum"].tolist() == [[2, 4]]
    assert answers["sum"].dtype == np.int64


@pytest.mark.parametrize(
    ("state", "why"),
    [
        (State(input="h", output="h_out"), "no input 'h'; it has x, h_in"),
        (State(input="h_in", output="h"), "no output 'h'; it has sum, h_out"),
    ],
)
def test_states_that_the_model_does_not_have_are_refused(state, why):
    with pytest.raises(WrongTensorsError, match=why):
        Stateful(OnnxRuntime(recurrent()), (state,))


@pytest.mark.parametrize(
    ("output", "why"),
    [
        (Tensor(name="h_out", dtype="float64", shape=(1, 2)), "float64"),
        (Tensor(name="h_out", dtype="float32", shape=(1, 3)), "[1, 3]"),
        (Tensor(name="h_out", dtype="float32", shape=(2,)), "must be alike"),
    ],
)
def test_a_state_must_come_back_as_it_goes_in(output, why):
    into = Tensor(name="h_in", dtype="float32", shape=(1, 2))
    assert why in stateful.why_no_states((into,), (output,), STATES)


def variant(content, states):
    runtime = OnnxRuntime(content)
    return Variant(
        name="onnx-fp32",
        runtime="onnx",
        model=describe_artifact(content),
        inputs=runtime.inputs,
        outputs=runtime.outputs,
        states=states,
    )


def test_a_variant_with_states_is_loaded_with_them(tmp_path):
    model = load(variant(recurrent(), STATES), write_model(tmp_path, recurrent()))
    assert isinstance(model, Stateful)
    model.close()
    with pytest.raises(ModelError, match="was closed"):
        model.infer_named(one(1, 1))


@pytest.mark.parametrize(
    "states",
    [
        pytest.param((State(input="nothing", output="h_out"),), id="an unknown input"),
        pytest.param((State(input="h_in", output="nothing"),), id="an unknown output"),
        pytest.param((*STATES, *STATES), id="one state twice"),
        pytest.param((*STATES, State(input="x", output="sum")), id="nothing is left"),
    ],
)
def test_a_manifest_with_states_that_cannot_be_is_malformed(states):
    written = encode(variant(recurrent(), ()))
    listed = b'"states":' + msgspec.json.encode(states)
    with pytest.raises(MalformedError, match="states of variant onnx-fp32"):
        decode(Variant, written.replace(b'"states":[]', listed))


def test_a_manifest_of_before_states_is_read_as_one_without():
    written = encode(variant(recurrent(), ()))
    assert b'"states":[]' in written
    assert decode(Variant, written.replace(b',"states":[]', b"")).states == ()
