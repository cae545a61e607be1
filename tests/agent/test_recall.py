"""Labels for what a slot predicted lately: which are attached, and which are refused."""

import json

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.infer.labelling import (
    MAX_FEEDBACK_BYTES,
    MAX_OPINIONS,
    read_feedback,
    status_of,
)
from agent.infer.onnx import OnnxRuntime
from agent.infer.recall import OTHER_SHAPE, TOO_LARGE, UNSHAPED, Recall
from agent.infer.requests import Request
from agent.infer.serving import Loaded, Serving
from agent.observe.windows import WindowRecorder
from agent.refusals import (
    LabelConflictError,
    LabelRefusedError,
    OversizedError,
    UnknownPredictionError,
)
from tests.small_models import CLASSES, SAMPLES, classifier, digest_of, release_of

WINDOW_BYTES = 3 * SAMPLES * 4


def recall(most=10, most_bytes=10**6, *, with_windows=True):
    clock = iter(range(1000, 10**6))
    return Recall(
        most=most,
        most_bytes=most_bytes,
        with_windows=with_windows,
        wall_ms=lambda: next(clock),
    )


def window(seed=0, rows=1):
    return np.random.default_rng(seed).normal(size=(rows, 3, SAMPLES)).astype(np.float32)


def asked(into, *, model=None, number=1, given=None, **members):
    """Serve a model that remembers into ``into``, ask it, and return the responses."""
    content = model or classifier(0)
    release = msgspec.structs.replace(release_of(content), **members)
    digest = digest_of(release)
    into.introduce(digest, release)
    serving = Serving(slot="motion", remember=into.remember)
    serving.serve(
        Loaded(
            digest=digest,
            release=release,
            runtime=OnnxRuntime(content),
            observer=WindowRecorder("motion", digest, len(release.classes), now_ms=0),
        )
    )
    inputs = [window(seed) if given is None else given for seed in range(number)]
    return [serving.request(Request(inputs={"x": array})) for array in inputs]


def wrong(label):
    return next(name for name in CLASSES if name != label)


def test_a_label_says_whether_the_release_that_predicted_was_right():
    memory = recall()
    first, second = asked(memory, number=2)
    bore_out = memory.attach(first.id, label=first.label)
    assert (bore_out.right, bore_out.again, bore_out.release) == (True, False, first.release)
    by_number = memory.attach(second.id, place=CLASSES.index(wrong(second.label)))
    assert (by_number.right, by_number.predicted) == (False, second.label)
    np.testing.assert_array_equal(bore_out.window, window(0)[0])
    assert bore_out.span_ms == 160


def test_a_window_of_a_stream_is_remembered_like_a_request():
    memory, answers = recall(), []
    content = classifier(0)
    release = release_of(content)
    memory.introduce(digest_of(release), release)
    serving = Serving([answers.append], remember=memory.remember)
    serving.serve(
        Loaded(
            digest=digest_of(release),
            release=release,
            runtime=OnnxRuntime(content),
            observer=WindowRecorder("motion", "a" * 64, 3, now_ms=0),
        )
    )
    serving.take(window()[0].T)
    attached = memory.attach(answers[0].id, label=answers[0].label)
    np.testing.assert_array_equal(attached.window, window()[0])
    assert attached.right


def test_what_its_giver_changes_later_is_remembered_as_it_was():
    memory, given = recall(), window()
    (said,) = asked(memory, given=given)
    given[:] = 0
    np.testing.assert_array_equal(memory.attach(said.id, place=0).window, window()[0])


def test_the_same_label_again_counts_once_and_another_one_is_refused():
    memory = recall()
    (said,) = asked(memory)
    memory.attach(said.id, label="walk")
    again = memory.attach(said.id, label="walk")
    assert again.again
    assert again.window is None
    with pytest.raises(LabelConflictError, match=r"labelled 'walk' already, which stays"):
        memory.attach(said.id, label="run")
    assert memory.attach(said.id, place=1).again


def test_a_label_that_arrives_after_a_swap_counts_for_the_release_that_predicted():
    memory = recall()
    (before,) = asked(memory)
    (after,) = asked(memory, model=classifier(1), version="2", target="models/motion/2.json")
    assert before.release != after.release
    assert memory.attach(before.id, label="walk").release == before.release
    assert memory.attach(after.id, label="walk").release == after.release


def test_only_the_newest_predictions_can_be_labelled():
    memory = recall(most=3)
    said = asked(memory, number=5)
    for old in said[:2]:
        with pytest.raises(UnknownPredictionError, match="is not remembered in this slot"):
            memory.attach(old.id, label="walk")
    for new in said[2:]:
        memory.attach(new.id, label="walk")


def test_memory_for_inputs_is_bounded_whatever_their_number():
    memory = recall(most=1000, most_bytes=10 * (WINDOW_BYTES + 512))
    said = asked(memory, number=50)
    assert memory.size_bytes <= 10 * (WINDOW_BYTES + 512)
    memory.attach(said[-10].id, label="walk")
    with pytest.raises(UnknownPredictionError):
        memory.attach(said[-11].id, label="walk")


def test_an_input_is_forgotten_when_its_answer_is_labelled():
    memory = recall()
    (said,) = asked(memory)
    before = memory.size_bytes
    memory.attach(said.id, label="walk")
    assert memory.size_bytes == before - WINDOW_BYTES


def test_without_keeping_windows_no_input_is_remembered():
    memory = recall(with_windows=False)
    (said,) = asked(memory)
    assert memory.size_bytes < WINDOW_BYTES + 512
    assert memory.attach(said.id, label=said.label).window is None


def test_each_row_of_a_batch_has_a_label_of_its_own():
    memory = recall()
    model = classifier(0, shape=("n", 3, SAMPLES))
    (said,) = asked(memory, model=model, given=window(4, rows=3))
    for row, label in enumerate(said.labels):
        attached = memory.attach(said.id, label=label, row=row)
        assert (attached.right, attached.row) == (True, row)
        np.testing.assert_array_equal(attached.window, window(4, rows=3)[row])
    with pytest.raises(LabelRefusedError, match="has 3 rows; there is no row 3"):
        memory.attach(said.id, label="walk", row=3)


def test_a_class_that_the_release_does_not_have_is_refused_with_those_it_has():
    memory = recall()
    (said,) = asked(memory)
    with pytest.raises(LabelRefusedError, match=r"'fly' is no class of .*still, walk, run"):
        memory.attach(said.id, label="fly")
    with pytest.raises(LabelRefusedError, match="no class 3; its classes are 0 to 2"):
        memory.attach(said.id, place=3)
    assert not memory.attach(said.id, label="walk").again


def test_a_model_without_classes_cannot_be_labelled():
    memory = recall()
    (said,) = asked(memory, probabilities=None, classes=())
    with pytest.raises(LabelRefusedError, match="only the answers of a classifier"):
        memory.attach(said.id, label="walk")


@pytest.mark.parametrize(
    ("members", "shape", "most_bytes", "why"),
    [
        pytest.param({"windowing": None}, (1, 3, SAMPLES), 10**6, UNSHAPED, id="no windowing"),
        pytest.param({}, (1, SAMPLES, 3), 10**6, OTHER_SHAPE, id="another shape"),
        pytest.param({}, (1, 3, SAMPLES), WINDOW_BYTES + 511, TOO_LARGE, id="too large"),
    ],
)
def test_an_input_that_is_no_window_counts_for_accuracy_and_is_not_kept(
    members, shape, most_bytes, why
):
    memory = recall(most_bytes=most_bytes)
    model = classifier(0, shape=("n", "c", "s"))
    (said,) = asked(memory, model=model, given=np.zeros(shape, np.float32), **members)
    attached = memory.attach(said.id, label=said.label)
    assert attached.right
    assert (attached.window, attached.why_not) == (None, why)


@pytest.mark.parametrize(
    ("body", "kind", "why"),
    [
        pytest.param(b"walk", LabelRefusedError, "this is no feedback", id="no JSON"),
        pytest.param(b'{"label": "walk"}', LabelRefusedError, "field `id`", id="no id"),
        pytest.param(b'{"id": "a"}', LabelRefusedError, "by one of them", id="no label"),
        pytest.param(
            b'{"id": "a", "label": "x", "class": 1}', LabelRefusedError, "by one of", id="both"
        ),
        pytest.param(
            b'{"id": "a", "lable": "walk"}', LabelRefusedError, "`lable`", id="a misspelled member"
        ),
        pytest.param(b'{"id": "a", "label": 3}', LabelRefusedError, "label", id="a wrong type"),
        pytest.param(b'{"id": "a", "class": -1}', LabelRefusedError, "class", id="below 0"),
        pytest.param(b"[]", LabelRefusedError, "empty", id="an empty list"),
        pytest.param(
            b"[" * 100_000 + b"]" * 100_000, OversizedError, "over the limit", id="too long"
        ),
        pytest.param(b"[" * 30_000, LabelRefusedError, "no feedback", id="deep"),
        pytest.param(
            b"[" + b",".join([b'{"id":"a","class":0}'] * (MAX_OPINIONS + 1)) + b"]",
            OversizedError,
            "501 labels",
            id="too many",
        ),
    ],
)
def test_what_is_no_feedback_is_refused_in_one_sentence(body, kind, why):
    assert len(body) <= MAX_FEEDBACK_BYTES or kind is OversizedError
    with pytest.raises(kind, match=why):
        read_feedback(body)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["id", "label", "class", "row", "x"]), inner, max_size=5)
    ),
    max_leaves=9,
)


@given(body=st.binary(max_size=200) | JSON.map(lambda value: json.dumps(value).encode()))
def test_no_bytes_are_more_than_refused(body):
    try:
        said = read_feedback(body)
    except (LabelRefusedError, OversizedError):
        return
    assert all((one.label is None) != (one.place is None) for one in said.opinions)


def test_each_refusal_has_its_status():
    assert [
        status_of(why)
        for why in (
            None,
            UnknownPredictionError(),
            LabelConflictError(),
            LabelRefusedError(),
            OversizedError(),
        )
    ] == [200, 404, 409, 400, 413]
