"""What the observer of a served model hears: every window, once, whoever else listens."""

import numpy as np
import pytest

from agent.contract.sketch import SignedSketch
from agent.errors import InputRefusedError, ModelError
from agent.infer.litert import LiteRtRuntime
from agent.infer.onnx import OnnxRuntime
from agent.infer.requests import Request
from agent.infer.serving import Loaded, Serving
from agent.observe.inputs import Looking, channels_of
from agent.observe.windows import WindowRecorder
from tests import small_tflite
from tests.small_models import CHANNELS, SAMPLES, classifier, digest_of, failing, release_of


def loaded(content=None, **members):
    release = release_of(content or classifier(), hop=SAMPLES)
    runtime = OnnxRuntime(content or classifier())
    looking = Looking(channels_of(runtime.inputs, release.windowing), share=0.01)
    recorder = WindowRecorder(
        "motion",
        digest_of(release),
        len(release.classes),
        now_ms=0,
        outputs=release.classes,
        looking=looking,
    )
    return Loaded(digest=digest_of(release), release=release, runtime=runtime, observer=recorder)


def samples(windows, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(windows * SAMPLES, len(CHANNELS))).astype(np.float32)


@pytest.mark.parametrize(
    ("load", "content"),
    [(OnnxRuntime, classifier()), (LiteRtRuntime, small_tflite.classifier())],
    ids=["onnx", "tflite"],
)
def test_one_output_alone_is_the_same_as_among_all(load, content):
    runtime = load(content)
    x = np.random.default_rng(1).normal(size=(1, len(CHANNELS), SAMPLES)).astype(np.float32)
    outputs = runtime.infer(x)
    for place, output in enumerate(outputs):
        np.testing.assert_array_equal(runtime.infer_one(x, place), output)
    with pytest.raises(InputRefusedError):
        runtime.infer_one(x * np.nan, 0)
    with pytest.raises(InputRefusedError):
        runtime.infer_one(x[:, :2], 0)
    np.testing.assert_array_equal(runtime.infer_one(x, 1), outputs[1])


@pytest.mark.parametrize("heard", [False, True], ids=["in silence", "with a sink"])
def test_windows_are_counted_alike_with_and_without_somebody_who_listens(heard):
    answers = []
    model = loaded()
    serving = Serving([answers.append] if heard else [], slot="motion")
    serving.serve(model)
    serving.take(samples(40))
    serving.gap()
    window = model.observer.close(1)
    assert (window.inferences, window.samples, window.gaps) == (40, 40 * SAMPLES, 1)
    assert sum(window.classes) == 40
    assert window.looked >= 1
    assert [one.name for one in window.inputs] == list(CHANNELS)
    assert len(answers) == (40 if heard else 0)
    assert sum(SignedSketch.read(one.values).total for one in window.outputs) == 40 * 3


@pytest.mark.parametrize(("duty", "answered"), [(1, 40), (2, 20), (4, 10), (8, 5)])
def test_a_lower_duty_answers_one_in_so_many_windows_and_counts_the_rest(duty, answered):
    model = loaded()
    serving = Serving(slot="motion")
    serving.serve(model)
    serving.duty = duty
    serving.take(samples(40))
    window = model.observer.close(1)
    assert (window.inferences, window.skipped) == (answered, 40 - answered)
    assert window.samples == 40 * SAMPLES


def test_requests_are_answered_whatever_the_duty_and_their_inputs_are_looked_at():
    model = loaded()
    serving = Serving(slot="motion")
    serving.serve(model)
    serving.duty = 8
    x = np.zeros((1, len(CHANNELS), SAMPLES), np.float32)
    for _ in range(3):
        serving.request(Request(inputs={"x": x}))
    window = model.observer.close(1)
    assert (window.inferences, window.skipped) == (3, 0)
    assert window.looked >= 1


def test_a_refused_window_names_the_channel_that_was_not_finite():
    model = loaded()
    serving = Serving(slot="motion")
    serving.serve(model)
    bad = samples(3)
    bad[SAMPLES + 1, 1] = np.nan
    serving.take(bad)
    wrong = np.full((1, len(CHANNELS), SAMPLES), np.inf, np.float32)
    with pytest.raises(InputRefusedError):
        serving.request(Request(inputs={"x": wrong}))
    window = model.observer.close(1)
    assert (window.inferences, window.refused) == (2, 2)
    assert [one.not_finite for one in window.inputs] == [1, 2, 1]


def test_a_model_that_fails_is_counted_and_the_next_window_is_answered():
    model = loaded(failing())
    serving = Serving(slot="motion")
    serving.serve(model)
    serving.take(samples(2))
    with pytest.raises(ModelError):
        serving.request(Request(inputs={"x": samples(1).T[np.newaxis]}))
    assert model.observer.close(1).failed == 3
    good = loaded()
    serving.serve(good)
    serving.take(samples(2))
    assert good.observer.close(2).inferences == 2
