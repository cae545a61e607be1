import threading

import msgspec
import numpy as np
import pytest

from agent.errors import InputRefusedError, ModelError, NotServingError
from agent.infer.loaded import Loaded
from agent.infer.onnx import OnnxRuntime
from agent.infer.requests import Request, prediction_id
from agent.infer.serving import Serving
from agent.observe.windows import WindowRecorder
from tests.small_models import SAMPLES, adder, classifier, digest_of, failing, release_of


def loaded(seed=0, *, model=None, version=None, **members):
    content = model or classifier(seed)
    release = release_of(content, version=version or f"{seed}")
    release = msgspec.structs.replace(release, **members)
    digest = digest_of(release)
    recorder = WindowRecorder("motion", digest, len(release.classes), now_ms=0)
    return Loaded(digest=digest, release=release, runtime=OnnxRuntime(content), observer=recorder)


def window(seed=0, rows=1):
    return np.random.default_rng(seed).normal(size=(rows, 3, SAMPLES)).astype(np.float32)


def served(model=None, **members):
    serving = Serving(slot="motion", **members)
    serving.serve(model or loaded())
    return serving


def closed(model):
    try:
        model.runtime.infer(window())
    except ModelError as why:
        return "closed" in str(why)
    return False


def test_a_request_is_answered_by_name_with_class_and_release():
    model = loaded()
    response = served(model).request(Request(inputs={"x": window(3)}))
    probabilities, embedding = OnnxRuntime(classifier()).infer(window(3))
    np.testing.assert_array_equal(response.outputs["probabilities"], probabilities)
    np.testing.assert_array_equal(response.outputs["embedding"], embedding)
    assert response.label == model.release.classes[int(probabilities.argmax())]
    assert response.confidence == pytest.approx(float(probabilities.max()))
    assert (response.slot, response.release, response.version) == ("motion", model.digest, "0")
    assert response.latency_us > 0
    assert model.observer.close(1).inferences == 1


def test_only_the_outputs_asked_for_come():
    response = served().request(Request(inputs={"x": window()}, outputs=("embedding",)))
    assert list(response.outputs) == ["embedding"]
    assert response.label


def test_ids_of_predictions_never_repeat():
    ids = [prediction_id() for _ in range(1000)]
    assert len(set(ids)) == 1000
    assert {len(name.partition("-")[0]) for name in ids} == {8}


@pytest.mark.parametrize(
    ("request_", "why"),
    [
        pytest.param(Request(inputs={"x": window()[:, :2]}), "of shape", id="shape"),
        pytest.param(Request(inputs={"x": window().astype("f8")}), "is float64", id="dtype"),
        pytest.param(Request(inputs={"x": window() * np.nan}), "a NaN or an infinity", id="NaN"),
        pytest.param(Request(inputs={"y": window()}), r"wanted \['x'\]", id="unknown input"),
        pytest.param(
            Request(inputs={"x": window()}, outputs=("z",)), "no output 'z'", id="unknown output"
        ),
    ],
)
def test_a_bad_request_is_refused_and_counted_and_the_next_is_answered(request_, why):
    model = loaded()
    serving = served(model)
    with pytest.raises(InputRefusedError, match=why):
        serving.request(request_)
    assert serving.request(Request(inputs={"x": window()})).label
    figures = model.observer.close(1)
    assert (figures.inferences, figures.refused, figures.failed) == (1, 1, 0)


@pytest.mark.parametrize("broken", [failing(), classifier(nan=True)], ids=["raises", "NaN"])
def test_a_model_that_fails_says_so_and_is_counted(broken):
    model = loaded(model=broken, version="bad")
    serving = served(model)
    with pytest.raises(ModelError, match="the model"):
        serving.request(Request(inputs={"x": window()}))
    assert model.observer.close(1).failed == 1


def test_a_slot_without_a_model_says_so_and_offers_nothing():
    serving = Serving(slot="motion")
    assert not serving.offered().ready
    with pytest.raises(NotServingError, match="slot motion has no model"):
        serving.request(Request(inputs={"x": window()}))
    serving.serve(loaded())
    assert serving.request(Request(inputs={"x": window()}))
    serving.close()
    with pytest.raises(NotServingError):
        serving.request(Request(inputs={"x": window()}))


def test_what_is_offered_is_what_may_be_asked():
    model = loaded()
    offered = served(model).offered()
    assert (offered.slot, offered.digest, offered.ready) == ("motion", model.digest, True)
    assert [(t.name, t.dtype, t.shape) for t in offered.inputs] == [("x", "float32", (1, 3, 8))]
    assert [t.name for t in offered.outputs] == ["probabilities", "embedding"]
    assert (offered.platform, offered.stateful) == ("onnxruntime_onnx", False)


def test_every_row_of_a_batch_is_an_answer_of_its_own():
    model = loaded(model=classifier(shape=("n", 3, SAMPLES)), version="batch")
    response = served(model).request(Request(inputs={"x": window(5, rows=6)}))
    wanted = [OnnxRuntime(classifier()).infer(row[None])[0][0] for row in window(5, rows=6)]
    np.testing.assert_allclose(response.outputs["probabilities"], wanted, rtol=1e-5)
    assert response.labels == tuple(model.release.classes[int(row.argmax())] for row in wanted)
    assert response.confidences == pytest.approx([float(row.max()) for row in wanted])
    assert (response.label, response.confidence) == (response.labels[0], response.confidences[0])
    figures = model.observer.close(1)
    assert (figures.inferences, sum(figures.classes)) == (6, 6)


def test_a_batch_without_rows_is_answered_without_rows_and_counts_nothing():
    model = loaded(model=classifier(shape=("n", 3, SAMPLES)), version="batch")
    response = served(model).request(Request(inputs={"x": window(rows=0)}))
    assert response.outputs["probabilities"].shape == (0, 3)
    assert (response.label, response.labels) == ("", ())
    assert model.observer.close(1).inferences == 0


def test_a_model_of_several_inputs_and_without_classes_answers_requests():
    model = loaded(model=adder(), probabilities=None, classes=(), windowing=None, head=None)
    inputs = {"a": np.array([1.5, 2], np.float32), "b": np.array([1, 2], np.int64)}
    response = served(model).request(Request(inputs=inputs))
    assert response.outputs["sum"].tolist() == [2.5, 4]
    assert (response.label, response.labels, response.confidence) == ("", (), 0)
    assert model.observer.close(1).inferences == 1


def test_requests_are_compared_in_a_probation_row_by_row():
    model, beside = (
        loaded(seed, model=classifier(seed, shape=("n", 3, SAMPLES)), version=f"b{seed}")
        for seed in (1, 2)
    )
    serving = Serving(slot="motion")
    serving.serve(model, beside)
    for seed in range(10):
        serving.request(Request(inputs={"x": window(seed, rows=3)}))
    with pytest.raises(InputRefusedError):
        serving.request(Request(inputs={"x": window(rows=2) * np.inf}))
    comparison = serving.comparison()
    x = np.concatenate([window(seed, rows=3) for seed in range(10)])
    one, two = (OnnxRuntime(classifier(s, shape=("n", 3, SAMPLES))).infer(x)[0] for s in (1, 2))
    assert comparison.windows == 30
    assert comparison.agreed == (one.argmax(1) == two.argmax(1)).sum()
    assert (comparison.serving.refused, comparison.beside.refused) == (1, 1)
    assert beside.observer.close(1).inferences == 0


def test_sinks_hear_windows_and_those_for_requests_hear_requests_and_memory_both():
    windows, asked, both = [], [], []
    serving = served(sinks=[windows.append], asked=[asked.append], remember=both.append)
    x = window(1)
    serving.answer(x)
    given = {"x": x}
    response = serving.request(Request(inputs=given))
    assert windows[0].given is x
    assert asked[0].given is given
    assert asked[0].id == response.id
    assert [a.id for a in both] == [windows[0].id, response.id]
    np.testing.assert_array_equal(windows[0].probabilities, asked[0].probabilities)
    assert [a.window for a in both] == [0, 1]


@pytest.mark.slow
def test_200_swaps_under_requests_from_many_threads_drop_none_and_mix_none():
    seeds = 5
    wanted = {}
    for seed in range(seeds):
        digest = digest_of(release_of(classifier(seed), version=f"{seed}"))
        wanted[digest] = OnnxRuntime(classifier(seed)).infer(window())
    serving = served(loaded(0))
    stop = threading.Event()
    answered, troubles = [0] * 4, []

    def ask(thread):
        while not stop.is_set():
            try:
                response = serving.request(Request(inputs={"x": window()}))
                for found, right in zip(
                    response.outputs.values(), wanted[response.release], strict=True
                ):
                    np.testing.assert_array_equal(found, right)
                answered[thread] += 1
            except BaseException as why:  # noqa: BLE001 -- told by the test below
                troubles.append(why)
                return

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(len(answered))]
    for thread in threads:
        thread.start()
    models = [loaded(number % seeds) for number in range(200)]
    for model in models:
        before = sum(answered)
        serving.serve(model)
        while sum(answered) < before + 5 and not troubles:
            stop.wait(0.001)
    stop.set()
    for thread in threads:
        thread.join()
    assert not troubles
    assert all(answered)
    assert serving.digests == (models[-1].digest, None)
    assert serving.request(Request(inputs={"x": window()})).release == models[-1].digest
    assert all(closed(model) for model in models[:-1])
    assert not closed(models[-1])
