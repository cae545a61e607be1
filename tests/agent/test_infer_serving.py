import threading
from itertools import count, pairwise

import msgspec
import numpy as np
import pytest

from agent.errors import ModelError
from agent.infer.labelled import right_answers
from agent.infer.onnx import OnnxRuntime
from agent.infer.serving import Loaded, Serving
from agent.infer.windowing import Windower
from agent.observe.windows import WindowRecorder
from tests.small_models import CHANNELS, SAMPLES, classifier, digest_of, failing, release_of


def loaded(seed=0, *, model=None, version=None, hop=4, **members):
    content = model or classifier(seed)
    release = release_of(content, version=version or f"{seed}", hop=hop)
    release = msgspec.structs.replace(release, **members)
    digest = digest_of(release)
    recorder = WindowRecorder("motion", digest, len(release.classes), now_ms=0)
    return Loaded(digest=digest, release=release, runtime=OnnxRuntime(content), observer=recorder)


def samples(number=40, seed=0):
    return np.random.default_rng(seed).normal(size=(number, 3)).astype(np.float32)


def window(seed=0):
    return np.random.default_rng(seed).normal(size=(1, 3, SAMPLES)).astype(np.float32)


def test_windows_overlap_by_the_hop_whatever_the_size_of_the_blocks():
    stream = samples(50)
    wanted = [stream[at : at + SAMPLES].T[None] for at in range(0, 50 - SAMPLES + 1, 4)]
    for size in (1, 3, 4, 7, 50):
        windower = Windower(release_of(classifier()).windowing)
        cut = [w for at in range(0, 50, size) for w in windower.push(stream[at : at + size])]
        np.testing.assert_array_equal(np.stack(cut), np.stack(wanted))


def test_a_hop_longer_than_a_window_leaves_samples_out():
    windowing = msgspec.structs.replace(release_of(classifier()).windowing, hop=20)
    windower = Windower(windowing)
    stream = samples(50)
    cut = [w for at in range(0, 50, 6) for w in windower.push(stream[at : at + 6])]
    np.testing.assert_array_equal(
        np.stack(cut), np.stack([stream[at : at + SAMPLES].T[None] for at in (0, 20, 40)])
    )


def test_no_window_spans_a_gap():
    answers = []
    serving = Serving([answers.append])
    serving.serve(loaded())
    serving.take(samples(SAMPLES - 1))
    serving.gap()
    serving.take(samples(SAMPLES - 1))
    assert not answers
    serving.take(samples(1))
    assert len(answers) == 1


def test_an_answer_names_the_class_and_carries_its_probabilities():
    answers = []
    serving = Serving([answers.append])
    model = loaded()
    serving.serve(model)
    serving.answer(window())
    (answer,) = answers
    expected = OnnxRuntime(classifier()).infer(window())[0][0]
    np.testing.assert_array_equal(answer.probabilities, expected)
    assert answer.label == model.release.classes[int(expected.argmax())]
    assert answer.confidence == pytest.approx(expected.max())
    assert answer.release == model.digest
    assert answer.latency_us > 0
    assert answer.window == 0


def test_a_model_without_classes_is_served_with_its_outputs():
    answers = []
    serving = Serving([answers.append])
    model = loaded(probabilities=None, classes=())
    serving.serve(model)
    serving.answer(window())
    assert answers[0].label == ""
    assert answers[0].probabilities.size == 0
    assert answers[0].outputs[1].shape == (1, 4)
    closed = model.observer.close(1)
    assert (closed.inferences, closed.classes) == (1, ())


def test_a_model_without_the_output_of_its_manifest_is_not_served():
    with pytest.raises(ModelError, match="no output 'chances'"):
        loaded(probabilities="chances")


def test_every_window_is_recorded_by_the_release_that_answered_it():
    first, second = loaded(1), loaded(2)
    serving = Serving()
    serving.serve(first)
    for seed in range(300):
        serving.answer(window(seed))
    serving.serve(second)
    for seed in range(7):
        serving.answer(window(seed))
    old, new = first.observer.close(5), second.observer.close(5)
    assert (old.release, old.inferences, sum(old.classes)) == (first.digest, 300, 300)
    assert (new.release, new.inferences, sum(new.classes)) == (second.digest, 7, 7)
    assert serving.windows == 307


@pytest.mark.slow
def test_a_swap_under_full_load_drops_no_window_and_never_waits():
    answers = []
    serving = Serving([answers.append])
    models = [loaded(seed, version=f"{seed}") for seed in range(8)]
    serving.serve(models[0])
    fed = 4000
    feeding = threading.Thread(target=lambda: [serving.answer(window()) for _ in range(fed)])
    feeding.start()
    for model in models[1:]:
        enough = serving.windows + 100
        while feeding.is_alive() and serving.windows < enough:
            pass
        serving.serve(model)
    feeding.join()
    assert [answer.window for answer in answers] == list(range(fed))
    order = [answers[0].release]
    for answer in answers:
        if answer.release != order[-1]:
            order.append(answer.release)
    assert order == [model.digest for model in models]
    expected = {
        m.digest: OnnxRuntime(classifier(s)).infer(window())[0] for s, m in enumerate(models)
    }
    for answer in answers[::37]:
        np.testing.assert_array_equal(answer.outputs[0], expected[answer.release])


def test_a_swap_while_no_samples_come_happens_at_once_and_closes_the_old_model():
    serving = Serving()
    old, new = loaded(1), loaded(2)
    serving.serve(old)
    serving.serve(new)
    assert serving.digests == (new.digest, None)
    with pytest.raises(ModelError, match="was closed"):
        old.runtime.infer_named({"x": window()})
    serving.close()
    assert serving.digests == (None, None)
    serving.answer(window())  # nothing is served, nothing fails


def test_a_model_that_stays_is_not_closed_when_the_one_beside_it_goes():
    candidate, good = loaded(1), loaded(2)
    serving = Serving()
    serving.serve(candidate, good)
    serving.answer(window())
    serving.serve(good)
    serving.answer(window())
    assert good.observer.close(1).inferences == 1


def test_a_model_that_is_superseded_before_it_answered_is_closed_too():
    never = loaded(1)

    def supersede(answer):
        serving.serve(never)
        serving.serve(None)

    serving = Serving([supersede])
    serving.serve(loaded(0))
    serving.answer(window())
    with pytest.raises(ModelError, match="was closed"):
        never.runtime.infer(window())


def test_samples_that_wait_in_the_window_survive_a_swap():
    answers = []
    serving = Serving([answers.append])
    serving.serve(loaded(1))
    stream = samples(SAMPLES + 4)
    serving.take(stream[:6])
    serving.serve(loaded(2))
    serving.take(stream[6:])
    np.testing.assert_array_equal(
        answers[0].outputs[0], OnnxRuntime(classifier(2)).infer(stream[:SAMPLES].T[None].copy())[0]
    )
    assert len(answers) == 2


def test_both_releases_see_the_same_windows_and_their_agreement_is_counted():
    candidate, good = loaded(1), loaded(2)
    stream = samples(400)
    serving = Serving()
    serving.serve(candidate, good)
    serving.take(stream)
    comparison = serving.comparison()
    x = np.stack([stream[at : at + SAMPLES].T for at in range(0, 393, 4)])
    mine = np.array([OnnxRuntime(classifier(1)).infer(w[None])[0].argmax() for w in x])
    same = right_answers(OnnxRuntime(classifier(2)), x, mine, "probabilities")
    assert comparison.windows == len(x) == comparison.classified
    assert comparison.agreed == same.sum()
    assert comparison.agreement == pytest.approx(same.mean())
    assert comparison.serving.release == candidate.digest
    assert comparison.beside.answered == len(x)
    assert 1 / 3 <= comparison.serving.confidence <= 1
    assert 0 < comparison.serving.latency_p50_us <= comparison.serving.latency_p95_us
    assert sum(comparison.beside.latency_us.counts) == len(x)
    assert good.observer.close(1).inferences == 0  # what runs beside is not what is served


def test_a_first_install_is_measured_alone():
    serving = Serving()
    serving.serve(loaded(), measure=True)
    serving.answer(window())
    comparison = serving.comparison()
    assert (comparison.windows, comparison.beside, comparison.agreement) == (1, None, None)
    serving.serve(loaded())
    assert serving.comparison() is None


def test_releases_that_cut_their_windows_otherwise_are_not_compared_and_say_so():
    serving = Serving()
    serving.serve(loaded(1), loaded(2, hop=2))
    serving.take(samples())
    comparison = serving.comparison()
    assert "cut their windows" in comparison.why_not
    assert comparison.beside.answered == 0


def test_a_refused_window_costs_itself_only():
    model = loaded()
    serving = Serving()
    serving.serve(model, loaded(2))
    bad = window()
    bad[0, 0, 0] = np.nan
    for x in (window(), bad, window()):
        serving.answer(x)
    closed = model.observer.close(1)
    assert (closed.inferences, closed.refused, closed.failed) == (2, 1, 0)
    comparison = serving.comparison()
    assert (comparison.windows, comparison.serving.refused, comparison.beside.refused) == (2, 1, 1)


@pytest.mark.parametrize("broken", [failing(), classifier(nan=True)], ids=["raises", "NaN"])
def test_a_model_that_fails_is_counted_and_never_answers(broken):
    answers = []
    model, good = loaded(model=broken, version="bad"), loaded(2)
    serving = Serving([answers.append])
    serving.serve(model, good)
    for seed in range(5):
        serving.answer(window(seed))
    assert not answers
    assert model.observer.close(1).failed == 5
    comparison = serving.comparison()
    assert (comparison.windows, comparison.serving.failed, comparison.beside.answered) == (0, 5, 5)
    serving.serve(good, model_beside := loaded(model=broken, version="bad"))
    serving.answer(window())
    assert serving.comparison().beside.failed == 1
    assert model_beside.observer.close(1).failed == 0
    assert len(answers) == 1


def test_a_sensor_that_is_wrong_for_ever_does_not_fill_the_log(caplog):
    serving = Serving([])
    serving.serve(loaded())
    for _ in range(100):
        serving.take(np.zeros((16, 2), np.float32))
    told = [r.getMessage() for r in caplog.records if "samples=refused" in r.getMessage()]
    assert len(told) == 7
    assert "times=64" in told[-1]


def test_samples_of_the_wrong_width_are_refused_and_the_stream_goes_on():
    model = loaded()
    serving = Serving()
    serving.serve(model)
    serving.take(np.zeros((10, len(CHANNELS) + 1), np.float32))
    serving.take(samples(SAMPLES))
    closed = model.observer.close(1)
    assert (closed.inferences, closed.refused) == (1, 1)


def test_a_sink_that_raises_is_counted_and_the_next_sink_still_hears():
    heard = []

    def broken(answer):
        raise RuntimeError("the operator's code")

    serving = Serving([broken, heard.append])
    serving.serve(loaded())
    serving.answer(window())
    assert serving.sink_failures == len(heard) == 1


@pytest.mark.slow
def test_a_comparison_is_read_while_windows_are_answered():
    serving = Serving()
    serving.serve(loaded(1), loaded(2))
    feeding = threading.Thread(target=lambda: [serving.answer(window(1)) for _ in range(3000)])
    feeding.start()
    seen = 0
    while feeding.is_alive():
        comparison = serving.comparison()
        assert comparison.windows == comparison.serving.answered == comparison.beside.answered
        assert seen <= comparison.windows
        seen = comparison.windows
    feeding.join()
    assert serving.comparison().windows == 3000


def test_windows_closed_while_recording_lose_nothing():
    recorder = WindowRecorder("motion", "0" * 64, 3, now_ms=0, numbers=count(5))
    recording = threading.Thread(
        target=lambda: [recorder.record(float(n + 1), 0.5, n % 3) for n in range(30_000)]
    )
    recording.start()
    closed = []
    while recording.is_alive():
        closed.append(recorder.close(len(closed) + 1))
    recording.join()
    closed.append(recorder.close(len(closed) + 1))
    assert sum(w.inferences for w in closed) == 30_000
    assert [sum(w.classes[c] for w in closed) for c in range(3)] == [10_000] * 3
    assert sum(sum(w.latency_us.counts) for w in closed) == 30_000
    assert [w.number for w in closed] == list(range(5, 5 + len(closed)))
    assert all(a.closed_ms == b.opened_ms for a, b in pairwise(closed))


def test_the_two_models_of_a_probation_take_turns_in_going_first(monkeypatch):
    order: list[str] = []
    new, old = loaded(0), loaded(1)
    for name, model in (("new", new), ("old", old)):
        infer = model.runtime.infer

        def told(x, name=name, infer=infer):
            order.append(name)
            return infer(x)

        monkeypatch.setattr(model.runtime, "infer", told)
    serving = Serving()
    serving.serve(new, old)
    for _ in range(4):
        serving.answer(window())
    assert order == ["new", "old", "old", "new"] * 2
    assert serving.comparison().windows == 4
