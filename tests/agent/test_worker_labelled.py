"""A release on the windows of the operator's file, and on those that people labelled."""

import msgspec
import numpy as np
import pytest

from agent.disk import Disk
from agent.errors import ConfigError
from agent.infer.onnx import OnnxRuntime
from agent.learn.keeping import KeptWindows
from agent.learn.kept import Kept
from agent.learn.samples import Split
from agent.worker.jobs import CheckJob, LearnJob
from agent.worker.labelled import measure, own_windows
from tests.small_models import CLASSES, SAMPLES, classifier, digest_of, release_of

RELEASE = release_of(classifier(0))


def windows(number, seed=0):
    return np.random.default_rng(seed).normal(size=(number, 3, SAMPLES)).astype(np.float32)


def said(x):
    runtime = OnnxRuntime(classifier(0))
    return [CLASSES[int(runtime.infer(one[None])[0].argmax())] for one in x]


def keep(state, x, labels, splits):
    """Keep windows as people labelled them."""
    store = KeptWindows(Disk(state), quota_bytes=1 << 20, retention_ms=1 << 40)
    store.keep(
        [
            Kept(
                slot="motion",
                id=f"0011aabb-{n}",
                row=0,
                at_ms=n,
                release=digest_of(RELEASE),
                label=label,
                split=split,
                channels=3,
                samples=SAMPLES,
                x=one.tobytes(),
            )
            for n, (one, label, split) in enumerate(zip(x, labels, splits, strict=True))
        ],
        0,
    )


def write_file(path, x, y, split):
    np.savez(path, x=x, y=np.array(y, np.int64), split=np.full(len(x), split, np.uint8))
    return str(path)


def check_job(state, **members):
    return CheckJob(state_dir=str(state), digest="0" * 64, hardware="any", installed=(), **members)


def learn_job(state, **members):
    known = {"backbone": "0" * 64, "hardware": "any", "installed": (), "kind": "train"}
    return LearnJob(state_dir=str(state), message=b"", **(known | members))


def test_a_release_is_measured_on_both_and_each_labelled_window_keeps_its_name(tmp_path):
    x = windows(6)
    right = said(x)
    wrong = [next(c for c in CLASSES if c != name) for name in right]
    decide, withheld, train = Split.DECIDE, Split.WITHHELD, Split.TRAIN
    keep(
        tmp_path,
        x,
        [right[0], wrong[1], right[2], wrong[3], right[4], right[5]],
        [decide, decide, withheld, withheld, withheld, train],
    )
    file = write_file(tmp_path / "file.npz", x[:1], [CLASSES.index(right[0])], decide)
    runtime = OnnxRuntime(classifier(0))
    labels = measure(runtime, RELEASE, check_job(tmp_path, samples=file, kept="motion"))
    assert labels is not None
    assert labels.decide == (True,)
    assert labels.kept == {"0011aabb-0/0": True, "0011aabb-1/0": False}
    assert (labels.decide_quality.right, labels.decide_quality.windows) == (2, 3)
    assert (labels.withheld.right, labels.withheld.windows) == (2, 3)
    assert labels.windows == 6


def test_of_many_labelled_windows_the_newest_are_answered_while_there_is_time(tmp_path):
    x = windows(50)
    keep(tmp_path, x, said(x), [Split.DECIDE, Split.WITHHELD] * 25)
    now = iter([0.0, 9.0, 11.0, 12.0, 21.0])
    job = check_job(tmp_path, kept="motion")
    labels = measure(OnnxRuntime(classifier(0)), RELEASE, job, clock=lambda: next(now))
    assert labels is not None
    assert list(labels.kept) == [f"0011aabb-{n}/0" for n in range(48, -2, -2)]
    assert labels.withheld.windows == 25
    slow = iter([0.0, 11.0, 21.0])
    labels = measure(OnnxRuntime(classifier(0)), RELEASE, job, clock=lambda: next(slow))
    assert labels is not None
    assert list(labels.kept) == [f"0011aabb-{n}/0" for n in range(48, 16, -2)]
    assert (labels.withheld.windows, labels.withheld.right) == (16, 16)


def test_labelled_windows_are_enough_without_a_file(tmp_path):
    x = windows(3)
    keep(tmp_path, x, said(x), [Split.TRAIN, Split.DECIDE, Split.WITHHELD])
    labels = measure(OnnxRuntime(classifier(0)), RELEASE, check_job(tmp_path, kept="motion"))
    assert labels is not None
    assert labels.decide_quality.windows == 1
    found = own_windows(learn_job(tmp_path, kept="motion"), RELEASE)
    assert [found.count(split) for split in Split] == [1, 1, 1]
    np.testing.assert_array_equal(found.x, x)


def test_a_release_with_other_windows_is_measured_on_none(tmp_path):
    x = windows(2)
    keep(tmp_path, x, said(x), [Split.DECIDE, Split.DECIDE])
    windowing = msgspec.structs.replace(RELEASE.windowing, samples=4)
    other = msgspec.structs.replace(RELEASE, windowing=windowing)
    labels = measure(OnnxRuntime(classifier(0)), other, check_job(tmp_path, kept="motion"))
    assert labels is not None
    assert labels.windows == 0


def test_without_any_windows_a_task_is_refused_in_a_sentence(tmp_path):
    with pytest.raises(ConfigError, match="no labelled windows"):
        own_windows(learn_job(tmp_path), RELEASE)
    assert measure(OnnxRuntime(classifier(0)), RELEASE, check_job(tmp_path)) is None
