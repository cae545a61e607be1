"""A release on the device's own labelled windows, in a child: measured, or trained on.

Rule 1: windows stand in the operator's file, and among those that people labelled; the
        latter come and go while the agent runs, so each has a name that stays.
Rule 2: *withheld* windows are counted here and decide nothing.
Rule 3: labels come for years, and a check has a time limit: of the kept windows the newest
        are answered, for as long as ``PATIENCE_SECONDS`` lasts.
"""

from collections.abc import Callable
from pathlib import Path
from time import monotonic
from typing import Final

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


PATIENCE_SECONDS: Final = 20.0
_BLOCK: Final = 16


def measure(
    runtime: Runtime, release: Release, job: CheckJob, clock: Callable[[], float] = monotonic
) -> Labels | None:
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
        output, began = release.probabilities, clock()
        half, whole = began + PATIENCE_SECONDS / 2, began + PATIENCE_SECONDS
        right = _newest(runtime, kept, Split.DECIDE, output, lambda: clock() < half)
        pairs = zip(names, kept.split.tolist(), strict=True)
        decided = [name for name, split in pairs if split == Split.DECIDE]
        known = dict(zip(reversed(decided), right, strict=False))
        withheld += _newest(runtime, kept, Split.WITHHELD, output, lambda: clock() < whole)
    return Labels(
        decide=tuple(decide),
        kept=known,
        withheld=Quality(right=sum(withheld), windows=len(withheld)),
    )


def _newest(
    runtime: Runtime,
    windows: LabelledWindows,
    split: Split,
    output: str,
    has_time: Callable[[], bool],
) -> list[bool]:
    """Return for each window of a split whether it is answered rightly, the newest first.

    It ends early when the time is up, but not before the first few.
    """
    x, y = windows.of(split)
    found: list[bool] = []
    while len(found) < len(x) and (not found or has_time()):
        end = len(x) - len(found)
        block = slice(max(0, end - _BLOCK), end)
        found += right_answers(runtime, x[block], y[block], output).tolist()[::-1]
    return found


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
