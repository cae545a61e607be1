"""Labels as they come from outside: answered, counted for their release, kept or not."""

import json
from itertools import count

import msgspec
import numpy as np
import pytest

from agent.config_inference import FeedbackConfig
from agent.contract.telemetry import Window
from agent.daemon.feedback import NOT_FINITE, ON_A_BORDER, Feedback, Tally
from agent.disk import Disk
from agent.errors import NewerStateError, UnknownModelError
from agent.infer.loaded import Answer
from agent.learn.kept import BLOCK_MS, load_kept, segment_name
from agent.learn.samples import Split
from agent.refusals import LabelConflictError, NoFeedbackError, UnknownPredictionError
from tests.small_models import CLASSES, SAMPLES, classifier, digest_of, release_of

RELEASE = release_of(classifier(0))
DIGEST = digest_of(RELEASE)
KEEPING = FeedbackConfig(keep_windows=True)
NUMBERS = count()


class Clock:
    """Wall clock that stands in the middle of a minute whose windows train."""

    def __init__(self) -> None:
        self.ms = BLOCK_MS // 2

    def __call__(self) -> int:
        return self.ms


def feedback(tmp_path, config=KEEPING, clock=None):
    made = Feedback(config, ["motion"], Disk(tmp_path), wall_ms=clock or Clock())
    made.introduce("motion", DIGEST, RELEASE)
    return made


def predict(into, place=1, *, given=None, release=DIGEST):
    """Remember one answer of class ``place``; returns its id."""
    probabilities = np.full(3, 0.1, np.float32)
    probabilities[place] = 0.8
    answer = Answer(
        id=f"0011aabb-{next(NUMBERS)}",
        window=0,
        release=release,
        label=CLASSES[place],
        confidence=0.8,
        probabilities=probabilities,
        outputs=(probabilities[None],),
        latency_us=10.0,
        given=np.ones((1, 3, SAMPLES), np.float32) if given is None else given,
    )
    remember = into.remembering("motion")
    assert remember is not None
    remember(answer)
    return answer.id


def said(**members):
    return json.dumps(members).encode()


def test_a_label_is_answered_counted_and_kept(tmp_path):
    labels = feedback(tmp_path)
    status, body = labels.take("motion", said(id=predict(labels), label="run"))
    answer = json.loads(body)
    assert status == 200
    assert (answer["label"], answer["predicted"], answer["right"]) == ("run", "walk", False)
    assert (answer["kept"], answer["release"]) == (True, DIGEST)
    labels.take("motion", said(id=predict(labels), **{"class": 1}))
    assert labels.close_tallies("motion") == {DIGEST: Tally(labelled=2, right=1)}
    assert labels.close_tallies("motion") == {}
    windows, _ = load_kept(Disk(tmp_path), "motion", classes=CLASSES, shape=(3, SAMPLES))
    assert windows.y.tolist() == [2, 1]
    assert labels.counts("motion") == {Split.TRAIN: 2, Split.DECIDE: 0, Split.WITHHELD: 0}


def test_labels_count_for_the_release_that_predicted(tmp_path):
    labels = feedback(tmp_path)
    newer = msgspec.structs.replace(RELEASE, version="2", target="models/motion/2.json")
    labels.introduce("motion", digest_of(newer), newer)
    old, new = predict(labels), predict(labels, release=digest_of(newer))
    labels.take("motion", said(id=new, label="walk"))
    labels.take("motion", said(id=old, label="still"))
    assert labels.close_tallies("motion") == {
        DIGEST: Tally(labelled=1, right=0),
        digest_of(newer): Tally(labelled=1, right=1),
    }


def test_a_label_twice_in_one_list_is_taken_and_kept_once(tmp_path):
    clock = Clock()
    clock.ms = 2 * BLOCK_MS + 10
    labels = feedback(tmp_path, clock=clock)
    known = predict(labels)
    body = json.dumps([{"id": known, "label": "walk"}] * 2).encode()
    first, second = json.loads(labels.take("motion", body)[1])["results"]
    assert (first["why_not_kept"], second["again"]) == (ON_A_BORDER, True)
    clock.ms = BLOCK_MS // 2
    body = json.dumps([{"id": predict(labels), "label": "walk"}] * 2).encode()
    first, second = json.loads(labels.take("motion", body)[1])["results"]
    assert (first["kept"], "kept" in second) == (True, False)
    assert labels.counts("motion")[Split.TRAIN] == 1
    assert labels.close_tallies("motion") == {DIGEST: Tally(labelled=2, right=2)}


def test_labels_stand_in_the_window_of_their_release_or_in_one_of_its_own(tmp_path):
    labels = feedback(tmp_path)
    newer = msgspec.structs.replace(RELEASE, version="2", target="models/motion/2.json")
    labels.introduce("motion", digest_of(newer), newer)
    old, new = predict(labels), predict(labels, release=digest_of(newer))
    labels.take("motion", said(id=old, label="still"))
    labels.take("motion", said(id=new, label="walk"))
    open_one = Window(
        slot="motion", release=digest_of(newer), number=7, opened_ms=1, closed_ms=2, inferences=0
    )
    told = labels.onto((open_one,), lambda _: 8)
    assert told[0] == msgspec.structs.replace(open_one, labelled=1, right=1)
    (extra,) = told[1:]
    assert (extra.release, extra.number, extra.inferences) == (DIGEST, 8, 0)
    assert (extra.labelled, extra.right) == (1, 0)
    assert labels.onto((open_one,), lambda _: 9) == (open_one,)


def test_several_labels_stand_each_for_itself(tmp_path):
    labels = feedback(tmp_path)
    first, second = predict(labels), predict(labels)
    body = json.dumps(
        [
            {"id": first, "label": "walk"},
            {"id": "0011aabb-none", "label": "walk"},
            {"id": second, "label": "fly"},
            {"id": second, "label": "still"},
        ]
    ).encode()
    status, answer = labels.take("motion", body)
    told = json.loads(answer)
    assert status == 404
    assert told["code"] == "prediction-unknown"
    assert [r.get("code", "") for r in told["results"]] == [
        "",
        "prediction-unknown",
        "label-refused",
        "",
    ]
    assert labels.close_tallies("motion") == {DIGEST: Tally(labelled=2, right=1)}
    assert labels.close_refused() == 2
    assert labels.close_refused() == 0


@pytest.mark.parametrize(
    ("status", "code", "body"),
    [
        pytest.param(404, "prediction-unknown", said(id="x", label="walk"), id="an unknown id"),
        pytest.param(400, "label-refused", said(id="KNOWN", label="fly"), id="no such class"),
        pytest.param(400, "label-refused", said(id="KNOWN"), id="no label"),
        pytest.param(400, "label-refused", b"walking", id="no JSON"),
        pytest.param(413, "oversized", b"x" * 70_000, id="too long"),
    ],
)
def test_what_is_refused_says_why_and_is_counted(tmp_path, status, code, body):
    labels = feedback(tmp_path)
    known = predict(labels)
    got, answer = labels.take("motion", body.replace(b"KNOWN", known.encode()))
    told = json.loads(answer)
    assert (got, told["code"]) == (status, code)
    assert told["error"]
    assert labels.close_refused() == 1
    assert labels.close_tallies("motion") == {}
    assert labels.take("motion", said(id=known, label="walk"))[0] == 200


def test_another_label_for_the_same_answer_is_a_conflict(tmp_path):
    labels = feedback(tmp_path)
    known = predict(labels)
    labels.take("motion", said(id=known, label="walk"))
    status, answer = labels.take("motion", said(id=known, label="run"))
    assert (status, json.loads(answer)["code"]) == (409, "label-conflict")
    again, answer = labels.take("motion", said(id=known, label="walk"))
    assert (again, json.loads(answer)["again"]) == (200, True)
    assert labels.close_tallies("motion") == {DIGEST: Tally(labelled=1, right=1)}
    assert labels.counts("motion")[Split.TRAIN] == 1


def test_without_the_section_nothing_is_remembered_and_whoever_labels_hears_so(tmp_path):
    labels = feedback(tmp_path, None)
    assert labels.remembering("motion") is None
    status, answer = labels.take("motion", said(id="x", label="walk"))
    assert (status, json.loads(answer)["code"]) == (404, "feedback-off")
    with pytest.raises(NoFeedbackError):
        labels.label("motion", "x", "walk")
    assert list(tmp_path.iterdir()) == []


def test_without_keep_windows_labels_are_counted_only(tmp_path):
    labels = feedback(tmp_path, FeedbackConfig())
    status, answer = labels.take("motion", said(id=predict(labels), label="walk"))
    assert status == 200
    assert "kept" not in json.loads(answer)
    assert labels.close_tallies("motion") == {DIGEST: Tally(labelled=1, right=1)}
    assert list(tmp_path.iterdir()) == []


def test_a_slot_that_is_not_there_is_named(tmp_path):
    status, answer = feedback(tmp_path).take("gesture", said(id="x", label="walk"))
    assert status == 404
    assert json.loads(answer)["error"] == "there is no model 'gesture' here; there is motion"
    with pytest.raises(UnknownModelError):
        feedback(tmp_path).label("gesture", "x", "walk")


def test_a_program_that_embeds_the_agent_labels_by_a_call(tmp_path):
    labels = feedback(tmp_path)
    known = predict(labels)
    assert labels.label("motion", known, "walk").right
    assert labels.label("motion", known, place=1).again
    with pytest.raises(LabelConflictError):
        labels.label("motion", known, "run")
    with pytest.raises(UnknownPredictionError):
        labels.label("motion", "never-was", "run")


@pytest.mark.parametrize(
    ("given", "why"),
    [
        pytest.param(np.full((1, 3, SAMPLES), np.nan, np.float32), NOT_FINITE, id="a NaN"),
        pytest.param(np.ones((3, SAMPLES, 1), np.float32), "not shaped like", id="a shape"),
    ],
)
def test_a_window_that_cannot_teach_still_counts(tmp_path, given, why):
    labels = feedback(tmp_path)
    status, answer = labels.take("motion", said(id=predict(labels, given=given), label="walk"))
    assert status == 200
    assert why in json.loads(answer)["why_not_kept"]
    assert labels.close_tallies("motion") == {DIGEST: Tally(labelled=1, right=1)}
    assert sum(labels.counts("motion").values()) == 0


def test_a_window_between_two_splits_is_not_kept(tmp_path):
    clock = Clock()
    clock.ms = 2 * BLOCK_MS + 10
    labels = feedback(tmp_path, clock=clock)
    _, answer = labels.take("motion", said(id=predict(labels), label="walk"))
    assert json.loads(answer)["why_not_kept"] == ON_A_BORDER


def test_a_disk_that_refuses_costs_the_window_and_not_the_label(tmp_path):
    labels = feedback(tmp_path)
    (tmp_path / segment_name(1)).mkdir(parents=True)
    status, answer = labels.take("motion", said(id=predict(labels), label="walk"))
    told = json.loads(answer)
    assert status == 200
    assert "kept" not in told
    assert segment_name(1) in told["why_not_kept"]
    assert labels.close_tallies("motion") == {DIGEST: Tally(labelled=1, right=1)}
    trouble = labels.tend()
    assert trouble is not None
    assert trouble.code == "store"
    assert labels.tend() is None


def test_windows_that_grew_old_go_without_a_label_coming(tmp_path):
    clock = Clock()
    labels = feedback(tmp_path, FeedbackConfig(keep_windows=True, retention_days=1), clock)
    labels.take("motion", said(id=predict(labels), label="walk"))
    clock.ms += 86_400_000 + BLOCK_MS
    assert labels.tend() is None
    assert sum(labels.counts("motion").values()) == 0


def test_what_a_newer_agent_kept_stops_the_start(tmp_path):
    Disk(tmp_path).append(segment_name(1), b"FFL\x02")
    with pytest.raises(NewerStateError):
        feedback(tmp_path)
