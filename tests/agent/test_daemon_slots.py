"""The slots of a device in process: with and without a source, asked by name."""

import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from agent.config import ObserveConfig
from agent.config_inference import Called, PipelineConfig
from agent.contract.manifest import State, Windowing
from agent.contract.messages import Assigned, Hosted
from agent.daemon.inference_news import Predicted, SourceEnded
from agent.daemon.serving import Inference
from agent.disk import Disk
from agent.errors import InputRefusedError, NotServingError, UnknownModelError
from agent.infer.pipeline import Broken
from agent.infer.requests import Request, Stream
from agent.update.store import Store
from fleet.release.build import Placement, build_release
from tests.small_models import CHANNELS, CLASSES, SAMPLES, adder, classifier, recurrent

INSTALLED = (Hosted(name="onnx", version="1"),)
WINDOWS = Windowing(channels=CHANNELS, samples=SAMPLES, hop=4, rate_hz=50.0)
BLOCKS: list[np.ndarray] = []


def blocks():
    yield from BLOCKS


class Slots:
    """An ``Inference`` with releases made by the fleet's own code, and what it put."""

    def __init__(
        self, folder: Path, published: Sequence[str] = (), **pipelines: PipelineConfig
    ) -> None:
        self.store = Store(Disk(folder))
        self.said: list[Predicted | SourceEnded] = []
        self.news = threading.Event()
        self.inference = Inference(
            pipelines,
            self.store,
            hardware="generic-linux",
            published=published,
            put=self._put,
            wall_ms=lambda: 1,
            observe=ObserveConfig(),
        )
        self._counter = 0

    def _put(self, item: Predicted | SourceEnded) -> None:
        self.said.append(item)
        self.news.set()

    def publish(self, model: bytes, slot: str = "motion", **members: object) -> Assigned:
        self._counter += 1
        counter = self._counter
        placement = Placement(
            family=slot, version=f"v{counter}", slot=slot, counter=counter, **members
        )
        built = build_release(model, placement, golden_inputs=None, metrics={}, now_ms=1)
        for digest, content in {**built.artifacts, built.digest: built.manifest}.items():
            self.store.put(digest, content)
        return Assigned(target=built.release.target, digest=built.digest, counter=counter)

    def serve(self, model: Assigned | None, beside: Assigned | None = None, slot: str = "motion"):
        self.inference.serve(slot, model, beside, measure=False, installed=INSTALLED)

    def ask(self, slot: str = "motion", stream: Stream | None = None, **inputs: object):
        given = {name: np.asarray(value, np.float32) for name, value in inputs.items()}
        return self.inference.request(slot, Request(inputs=given, stream=stream))


@pytest.fixture
def slots(tmp_path):
    made = []

    def make(**pipelines):
        made.append(Slots(tmp_path, **pipelines))
        return made[-1]

    yield make
    for each in made:
        each.inference.stop()


def named(**members):
    return {"classes": CLASSES, "probabilities": "probabilities", **members}


def window(seed=0):
    return np.random.default_rng(seed).normal(size=(1, 3, SAMPLES)).astype(np.float32)


def test_a_slot_without_a_source_answers_requests_and_they_are_counted(slots):
    here = slots(motion=PipelineConfig())
    with pytest.raises(NotServingError):
        here.ask(x=window())
    one = here.publish(classifier(), **named())
    here.serve(one)
    response = here.ask(x=window())
    assert (response.slot, response.release, response.version) == ("motion", one.digest, "v1")
    with pytest.raises(InputRefusedError):
        here.ask(x=window()[:, :2])
    (figures,) = here.inference.close_windows()
    assert (figures.inferences, figures.refused) == (1, 1)
    assert here.said == []


def test_an_unknown_slot_is_said_with_those_there_are(slots):
    here = slots(motion=PipelineConfig(), sound=PipelineConfig())
    with pytest.raises(UnknownModelError, match="no model 'light' here; there is motion, sound"):
        here.ask("light", x=window())


def test_every_slot_is_offered_whether_it_has_a_model_or_not(slots):
    here = slots(motion=PipelineConfig(), sums=PipelineConfig())
    here.serve(here.publish(adder(), "sums"), slot="sums")
    motion, sums = here.inference.offered()
    assert (motion.slot, motion.ready, motion.digest) == ("motion", False, None)
    assert (sums.slot, sums.ready, [t.name for t in sums.inputs]) == ("sums", True, ["a", "b"])


def test_a_candidate_in_a_slot_without_a_source_is_tried_on_requests(slots):
    here = slots(sums=PipelineConfig())
    old, new = here.publish(adder(), "sums"), here.publish(adder(), "sums")
    here.serve(new, old, slot="sums")
    for number in range(5):
        inputs = {"a": np.full(2, number, np.float32), "b": np.full(2, number, np.int64)}
        here.inference.request("sums", Request(inputs=inputs))
    shown = here.inference.comparison("sums")
    assert (shown.windows, shown.serving.release, shown.why_not) == (5, new.digest, "")
    assert shown.beside.answered == 5


def test_sinks_hear_requests_only_where_no_source_feeds_the_slot(slots):
    here = slots(published=("motion",), motion=PipelineConfig())
    here.serve(here.publish(classifier(), **named()))
    response = here.ask(x=window())
    (said,) = here.said
    assert isinstance(said, Predicted)
    assert said.answer.id == response.id
    assert said.message(7).label == response.label


def test_sinks_of_a_slot_with_a_source_do_not_hear_of_requests(slots, monkeypatch):
    BLOCKS[:] = []
    monkeypatch.setattr("agent.infer.sources.named_callable", lambda _: blocks)
    source = Called(target="operators.code:blocks")
    here = slots(published=("motion",), motion=PipelineConfig(source=source))
    here.serve(here.publish(classifier(), windowing=WINDOWS, **named()))
    assert here.ask(x=window()).label in CLASSES
    assert not [said for said in here.said if isinstance(said, Predicted)]


def test_releases_that_take_other_inputs_are_not_compared_and_say_so(slots):
    here = slots(sums=PipelineConfig())
    old, new = here.publish(recurrent(), "sums"), here.publish(adder(), "sums")
    here.serve(new, old, slot="sums")
    inputs = {"a": np.ones(2, np.float32), "b": np.ones(2, np.int64)}
    here.inference.request("sums", Request(inputs=inputs))
    shown = here.inference.comparison("sums")
    assert shown.why_not == "the two releases take different inputs"
    assert (shown.serving.answered, shown.beside.answered, shown.beside.refused) == (1, 0, 0)


def test_a_model_of_several_inputs_is_not_fed_by_a_source_and_still_answers_requests(slots):
    source = Called(target=f"{__name__}:blocks")
    here = slots(sums=PipelineConfig(source=source))
    here.serve(here.publish(adder(), "sums"), slot="sums")
    (said,) = here.said
    assert isinstance(said, SourceEnded)
    assert said.end == Broken(
        "the source of sums feeds nothing, it answers requests only: "
        "the model takes 2 inputs (a, b), and a source feeds only one"
    )
    inputs = {"a": np.ones(2, np.float32), "b": np.ones(2, np.int64)}
    assert here.inference.request("sums", Request(inputs=inputs)).outputs["sum"].tolist() == [2, 2]


def test_a_model_of_rows_without_windowing_takes_each_sample_and_keeps_its_state(
    slots, monkeypatch
):
    BLOCKS[:] = [np.ones((2, 2), np.float32), None, np.ones((1, 2), np.float32)]
    monkeypatch.setattr("agent.infer.sources.named_callable", lambda _: blocks)
    here = slots(
        published=("motion",), motion=PipelineConfig(source=Called(target="operators.code:blocks"))
    )
    states = (State(input="h_in", output="h_out"),)
    here.serve(here.publish(recurrent(), states=states))
    while not here.said or not isinstance(here.said[-1], SourceEnded):
        assert here.news.wait(10)
        here.news.clear()
    told = [said.answer.outputs[0].tolist() for said in here.said[:-1]]
    assert told == [[[1, 1]], [[2, 2]], [[1, 1]]]
    assert here.ask(x=[[5, 5]], stream=Stream(id="a")).outputs["sum"].tolist() == [[5, 5]]


def test_what_a_change_of_models_did_to_memory_is_told_once_when_the_old_one_is_gone(slots):
    here = slots(motion=PipelineConfig())
    old, new = (here.publish(classifier(seed), **named()) for seed in (1, 2))
    here.serve(old)
    (window_,) = here.inference.close_windows()
    assert window_.swap is not None  # the first model, which nothing had to make room for
    here.serve(new, old)
    (window_,) = (w for w in here.inference.close_windows() if w.release == new.digest)
    assert window_.swap is None  # the old one is still beside it
    here.serve(new)
    (window_,) = here.inference.close_windows()
    assert window_.swap.before_bytes > 10_000_000
    assert window_.swap.after_bytes > 10_000_000
    (window_,) = here.inference.close_windows()
    assert window_.swap is None


def test_samples_of_a_model_of_rows_must_have_its_width(slots, monkeypatch):
    BLOCKS[:] = [np.ones((2, 3), np.float32), np.ones((1, 2), np.float32)]
    monkeypatch.setattr("agent.infer.sources.named_callable", lambda _: blocks)
    here = slots(motion=PipelineConfig(source=Called(target="operators.code:blocks")))
    here.serve(here.publish(recurrent(), states=(State(input="h_in", output="h_out"),)))
    assert here.news.wait(10)
    (figures,) = here.inference.close_windows()
    assert (figures.inferences, figures.refused) == (1, 1)
