"""A release on the device's own labelled windows, in a child: measured, or trained on.

Rule 1: windows stand in the operator's file, and among those that people labelled; the
        latter come and go while the agent runs, so each has a name that stays.
Rule 2: *withheld* windows are counted here and decide nothing.
"""

from pathlib import Path

from agent.contract.manifest import Release
from agent.contract.messages import Quality
from agent.disk import Disk
from agent.errors import ConfigError
from agent.infer.labelled import right_answers
from agent.infer.runtime import Runtime
from agent.learn.kept import join, load_kept
from agent.learn.samples import LabelledWindows, Split, load_samples
from agent.worker.jobs import CheckJob, Labels, LearnJob

NO_WINDOWS = "this device has no labelled windows that fit the release"


def measure(runtime: Runtime, release: Release, job: CheckJob) -> Labels | None:
    """Return how a release answers the windows that judge it; None where it has no classes.

    Raises:
        ModelError: The model failed.
        StoreError: Kept windows cannot be read.

    """
    if release.probabilities is None:
        return None
    file = _file(job.samples)
    kept, names = _kept(job, release)
    if file is None and kept is None:
        return None
    decide: list[bool] = []
    withheld: list[bool] = []
    known: dict[str, bool] = {}
    if file is not None:
        decide += right_answers(runtime, *file.of(Split.DECIDE), release.probabilities).tolist()
        withheld += right_answers(runtime, *file.of(Split.WITHHELD), release.probabilities).tolist()
    if kept is not None:
        right = right_answers(runtime, *kept.of(Split.DECIDE), release.probabilities)
        pairs = zip(names, kept.split.tolist(), strict=True)
        decided = [name for name, split in pairs if split == Split.DECIDE]
        known = dict(zip(decided, right.tolist(), strict=True))
        withheld += right_answers(runtime, *kept.of(Split.WITHHELD), release.probabilities).tolist()
    return Labels(
        decide=tuple(decide),
        kept=known,
        withheld=Quality(right=sum(withheld), windows=len(withheld)),
    )


def own_windows(job: LearnJob, release: Release) -> LabelledWindows:
    """Return all windows that a task may use.

    Raises:
        ConfigError: There are none, or those of the file cannot be read or do not fit.
        StoreError: Kept windows cannot be read.

    """
    file = load_samples(Path(job.samples)) if job.samples else None
    kept, _ = _kept(job, release)
    if kept is not None:
        return join(file, kept)
    if file is None:
        raise ConfigError(NO_WINDOWS)
    return file


def _file(samples: str | None) -> LabelledWindows | None:
    try:
        return load_samples(Path(samples)) if samples else None
    except ConfigError:
        return None  # the probe at the start of the agent has said so


def _kept(
    job: CheckJob | LearnJob, release: Release
) -> tuple[LabelledWindows | None, tuple[str, ...]]:
    windowing = release.windowing
    if job.kept is None or windowing is None:
        return None, ()
    return load_kept(
        Disk(Path(job.state_dir)),
        job.kept,
        classes=release.classes,
        shape=(len(windowing.channels), windowing.samples),
    )
