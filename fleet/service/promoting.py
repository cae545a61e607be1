"""What a run asked for at its end, done without a person where an operator chose so.

    finished ──▶ fieldfare run evaluate RUN FILE             ──▶ figures of a held-out set
             ──▶ fieldfare run promote RUN --rounds-key      ──▶ release, rollout in waves

Rule 1: promotion is off unless the run was started with ``--promote auto``, and only with
        the key that the offline keys delegated for it (``keys rounds create``).
Rule 2: these are the operator's own commands, in a child: the manager goes on meanwhile,
        and there is one way from a candidate to a release.
Rule 3: what was signed with that key is of a run of this manager, at most so many a day,
        and goes to that run's devices only; whoever asks, through any door.
Rule 4: what came of it is journalled; it is tried once.
"""

import logging
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, assert_never

from agent.contract.manifest import Release
from fleet.config import FleetConfig
from fleet.errors import RefusedError
from fleet.registry.runs import RunRow
from fleet.rollout.plan import Plan
from fleet.rounds.events import HeldOut, Promoted, RunPlan, decode_event, encode_event
from fleet.service.desk import Desk
from fleet.service.run_views import plan_of
from fleet.signing.rounds_key import why_not

LOG = logging.getLogger(__name__)
DAY_MS: Final = 86_400_000
SECONDS: Final = 900.0
"""Building, checking and signing a release may take so long."""
_TOLD_CHARACTERS: Final = 400


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """Running release and candidate are to be measured on an operator's file."""

    run: str
    file: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Promotion:
    """The candidate is to be released."""

    run: str


Job = Measurement | Promotion


class Promoter:
    """Does what ended runs asked for, one after the other; owned by the manager's thread.

    Args:
        config: The manager's settings.
        passphrase: Opens its keys.

    """

    def __init__(self, config: FleetConfig, passphrase: str) -> None:
        self._config, self._passphrase = config, passphrase
        self._job: Job | None = None
        self._child: subprocess.Popen[bytes] | None = None
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._settled: set[str] = set()
        self._until = 0.0

    def tick(self, desk: Desk) -> None:
        """Begin what is due, or note what came of what was begun."""
        if self._job is not None:
            overdue = time.monotonic() > self._until
            if self._child is not None and self._child.poll() is None and not overdue:
                return
            done, self._job = self._job, None
            _note(desk, done, self._ended(overdue=overdue))
            return
        job = self._next(desk)
        if job is None:
            return
        if isinstance(job, Promotion) and _is_rolled_out(desk, job.run):
            _note(desk, job, "")
            return
        try:
            self._begin(job)
        except OSError as why:
            _note(desk, job, f"it cannot be started: {why.strerror or why}")

    def close(self) -> None:
        """End a promotion that is under way; it is begun again at the next start."""
        if self._child is not None:
            self._child.kill()
            self._ended(overdue=True)

    def _next(self, desk: Desk) -> Job | None:
        """Return what is to be done; a run that has nothing left to do is not read again."""
        for run in desk.registry.runs.ended_since(desk.now_ms() - DAY_MS):
            row = None if run in self._settled else desk.registry.runs.find(run)
            job = row and _due(desk, row)
            if job:
                return job
            self._settled.add(run)
        return None

    def _begin(self, job: Job) -> None:
        home = ["--home", str(self._config.home)]
        match job:
            case Measurement(run=run, file=file):
                words = ["run", "evaluate", *home, "--", run, file]
            case Promotion(run=run):
                promotion = self._config.promotion
                words = ["run", "promote", *home, "--rounds-key", "--canary", promotion.canary]
                words += ["--soak", str(promotion.soak_seconds)]
                if self._passphrase:
                    words += ["--passphrase-file", "/dev/stdin"]
                words += ["--", run]
            case _ as never:
                assert_never(never)
        self._folder = tempfile.TemporaryDirectory(prefix="fieldfare-promote-")
        with Path(self._folder.name, "errors.txt").open("wb") as errors:
            child = subprocess.Popen(
                [sys.executable, "-I", "-m", "fleet", *words],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                start_new_session=True,
            )
        if child.stdin is not None:
            with suppress(BrokenPipeError), child.stdin as secret:
                secret.write(self._passphrase.encode() + b"\n")
        self._job, self._child, self._until = job, child, time.monotonic() + SECONDS
        LOG.info("run id=%s begun=%s", run, words[1])

    def _ended(self, *, overdue: bool) -> str:
        """Return why the child failed; "" where it did not."""
        child, folder = self._child, self._folder
        self._child = self._folder = None
        if child is None or folder is None:
            return ""
        late = overdue and child.poll() is None
        if late:
            child.kill()
        status = child.wait()
        with folder:
            told = Path(folder.name, "errors.txt").read_text(errors="replace").strip()
        if late:
            return f"it took longer than {SECONDS:g} s"
        if not status:
            return ""
        return told.rpartition("\n")[2][:_TOLD_CHARACTERS] or f"it ended with status {status}"


def require_key(desk: Desk, family: str) -> None:
    """Return if the manager may sign what rounds make of a family.

    Raises:
        RefusedError: It may not; says what to do.

    """
    why = why_not(desk.repository.published(), desk.config.keys, family)
    if why:
        raise RefusedError(f"a run cannot be promoted without a person: {why}")


def require_of_a_run(desk: Desk, release: Release) -> None:
    """Return if a release of the rounds' key is one that a run of this manager made, in time.

    Raises:
        RefusedError: It is not; says why.

    """
    plan = _plan_behind(desk, release)
    parent = desk.registry.models.require(plan.backbone).release
    if (parent.family, parent.slot) != (release.family, release.slot):
        raise RefusedError(
            f"{release.target} is for slot {release.slot}; {plan.run} was of {parent.family} in "
            f"slot {parent.slot}"
        )
    counter = desk.registry.models.next_counter(release.slot)
    if release.counter > counter:
        raise RefusedError(
            f"{release.target} has counter {release.counter}; the key of the rounds may sign the "
            f"next one, {counter}, and leaves none out"
        )
    since = desk.now_ms() - DAY_MS
    made = [
        found.release
        for found in desk.registry.models.listing(release.slot)
        if found.release.of_rounds and found.added_ms > since
    ]
    of_family = [found for found in made if found.family == release.family]
    most = desk.config.promotion.per_day
    if len(of_family) >= most and release.target not in {found.target for found in of_family}:
        raise RefusedError(
            f"{len(of_family)} releases of {release.family} were signed with the key of the "
            f"rounds in 24 hours; at most {most} may be (promotion.per_day)"
        )


def require_cohort(desk: Desk, release: Release, plan: Plan) -> None:
    """Return if a rollout of a release of the rounds' key stays with the devices of its run.

    Raises:
        RefusedError: It goes further.

    """
    if not release.of_rounds:
        return
    run = _plan_behind(desk, release)
    strangers = sorted(set(plan.devices) - {*run.participants, *run.evaluators})
    if strangers:
        raise RefusedError(
            f"{release.target} is signed with the key of the rounds and goes to the devices of "
            f"{run.run} only, not to {strangers[0]}; sign it with a person's key to go further"
        )


def _note(desk: Desk, job: Job, why: str) -> None:
    """Journal what came of a job; ``why`` is why it failed, "" where it did not."""
    now_ms, event = desk.now_ms(), None
    match job:
        case Promotion(run=run):
            release = _release_of(desk, run)  # its rollout alone may have been refused
            told = why or "promoted by the manager"
            event = encode_event(Promoted(release=release, why=told, at_ms=now_ms))
        case Measurement(run=run) if why:
            event = encode_event(HeldOut(why=why, at_ms=now_ms))
        case Measurement(run=run):
            pass  # the command has told its figures
        case _ as never:
            assert_never(never)
    if event is not None:
        desk.registry.runs.note(run, event)
    LOG.info("run id=%s done=%s why=%s", run, type(job).__name__.lower(), why)


def _due(desk: Desk, row: RunRow) -> Job | None:
    """Return what an ended run asked for and was not done."""
    if row.status != "finished":
        return None
    plan = plan_of(row)
    if not plan.held_out and not plan.promote:
        return None
    done = {type(decode_event(step)) for step in desk.registry.runs.journal(row.id)}
    if plan.held_out and HeldOut not in done:
        return Measurement(run=row.id, file=plan.held_out)
    return Promotion(run=row.id) if plan.promote and Promoted not in done else None


def _release_of(desk: Desk, run: str) -> str | None:
    made = [p for p in desk.registry.models.listing() if p.release.lineage.run == run]
    return made[-1].digest if made else None


def _is_rolled_out(desk: Desk, run: str) -> bool:
    """Return whether a promotion was done before its end could be noted."""
    release = _release_of(desk, run)
    rows = desk.registry.rollouts.listing()
    return release is not None and any(row.release == release for row in rows)


def _plan_behind(desk: Desk, release: Release) -> RunPlan:
    run = release.lineage.run or ""
    row = desk.registry.runs.find(run)
    if row is None or row.status != "finished":
        raise RefusedError(f"{release.target} is of {run or 'no run'}, which finished nowhere here")
    plan = plan_of(row)
    if plan.backbone not in release.lineage.parents:
        raise RefusedError(f"{release.target} does not descend from the release that {run} trained")
    return plan
