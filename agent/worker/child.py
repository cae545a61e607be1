"""The child's side: read one job, limit itself, do it, say one answer, end.

Rule 1: standard output carries the answer and nothing else; whatever a library prints
        goes to standard error.
Rule 2: an error of the tree becomes its code and sentence; running out of memory
        becomes a sentence; any other exception is a bug and ends with a traceback.
Rule 3: each job imports what it needs itself, so that one child does not pay for the
        libraries of another.
"""

import ctypes
import dataclasses
import os
import platform
import re
import resource
import signal
import sys
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, assert_never, cast, get_args

import msgspec

from agent.contract.manifest import Variant
from agent.contract.messages import Finding
from agent.disk import Disk
from agent.errors import AgentError, ConfigError, ContractError, ModelError, WorkerError
from agent.update.store import Store
from agent.update.trust import RefreshAnswer, RefreshJob
from agent.worker.jobs import (
    Answered,
    AppCheckJob,
    AppJob,
    CheckAnswer,
    CheckJob,
    Envelope,
    Kind,
    LearnAnswer,
    LearnJob,
    Limits,
    Named,
    Outcome,
    ProbeAnswer,
    ProbeJob,
    RebuildAnswer,
    RebuildJob,
    UnbundleAnswer,
    UnbundleJob,
    UnpackAnswer,
    UnpackJob,
)

if TYPE_CHECKING:
    from agent.infer.external.worker import Outside
    from agent.infer.runtime import Runtime

_PR_SET_PDEATHSIG = 1
_IOPRIO_SET = {"x86_64": 251, "aarch64": 30}
_THIS_PROCESS, _IDLE_DISK = 1, 3 << 13  # linux/ioprio.h
_MAX_JOB_BYTES = 96 * 1024 * 1024
_NO_MEMORY = re.compile("bad_alloc|bad allocation|Failed to allocate memory")
"""How runtimes say that they got no memory; it speaks of this child's limit as well."""


def main(arguments: list[str]) -> int:
    """Do the one job of this process and return its exit status."""
    if len(arguments) != 1 or arguments[0] not in get_args(Kind):
        sys.stderr.write(f"a worker is one of {', '.join(get_args(Kind))}; the agent starts it\n")
        return 2
    kind = cast("Kind", arguments[0])
    answers = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    outcome = _outcome(kind, sys.stdin.buffer.read(_MAX_JOB_BYTES + 1))
    with os.fdopen(answers, "wb") as out:
        out.write(msgspec.json.encode(outcome))
    return 0


def _outcome(kind: Kind, said: bytes) -> Outcome:
    try:
        envelope = msgspec.json.decode(said, type=Envelope)
        _die_with(envelope.parent)
        _limit(envelope.limits)
        answer = _answer(kind, bytes(envelope.job))
        return Answered(answer=msgspec.Raw(msgspec.json.encode(answer)))
    except AgentError as why:
        return Named(code=why.code, why=str(why))
    except msgspec.MsgspecError as why:
        return Named(code=AgentError.code, why=f"the {kind} job does not parse: {why}")
    except MemoryError:
        return Named(
            code=AgentError.code, why=f"the {kind} worker needs more memory than it may have"
        )


def _answer(kind: Kind, job: bytes) -> msgspec.Struct:
    match kind:
        case "refresh":
            from agent.update.refresh import refresh

            return RefreshAnswer(result=refresh(msgspec.json.decode(job, type=RefreshJob)))
        case "check":
            return check(msgspec.json.decode(job, type=CheckJob))
        case "probe":
            return probe(msgspec.json.decode(job, type=ProbeJob))
        case "learn":
            return learn(msgspec.json.decode(job, type=LearnJob))
        case "app-check":
            from agent.worker.apps import find_environment

            return find_environment(msgspec.json.decode(job, type=AppCheckJob))
        case "app":
            from agent.worker.apps import answer_by_app

            return answer_by_app(msgspec.json.decode(job, type=AppJob))
        case "rebuild":
            from agent.update.rebuild import rebuild

            wish = msgspec.json.decode(job, type=RebuildJob)
            store = Store(Disk(Path(wish.state_dir)))
            return RebuildAnswer(seal=rebuild(store, wish.artifact, wish.source, wish.key))
        case "unbundle":
            return unbundle(msgspec.json.decode(job, type=UnbundleJob))
        case "unpack":
            return unpack(msgspec.json.decode(job, type=UnpackJob))
        case _:
            assert_never(kind)


def unbundle(job: UnbundleJob) -> UnbundleAnswer:
    """Read an update bundle to its end."""
    from agent.update.unpack import read

    found = read(Path(job.path), job.device)
    return UnbundleAnswer(
        metadata=found.metadata,
        assignment=found.assignment,
        devices=found.devices,
        files={digest: (place.at, place.size) for digest, place in found.files.items()},
    )


def unpack(job: UnpackJob) -> UnpackAnswer:
    """Copy files of an update bundle into the store."""
    from agent.contract.bundle import Place
    from agent.update.unpack import unpack as copy

    wanted = ((file.digest, Place(file.at, file.size)) for file in job.packed)
    return UnpackAnswer(sealed=copy(Store(Disk(Path(job.state_dir))), Path(job.path), wanted))


def check(job: CheckJob) -> CheckAnswer:
    """Load a release as the agent would, try its golden vectors, and measure it.

    What is wrong with the release is a finding; what is wrong with this device is raised.

    Raises:
        StoreError: Its bytes are not in the store.
        CorruptError: They are no longer the ones that were believed.
        RuntimeMissingError: No installed runtime can run it.
        MemoryError: It needs more than this child may have, or than there is just now.

    """
    from agent.infer.golden import check_golden, require_golden
    from agent.infer.variants import choose, examine, load

    disk = Disk(Path(job.state_dir))
    store = Store(disk)
    store.seals.adopt(job.sealed)
    release = store.read_manifest(job.digest)
    variant = choose(release, job.hardware, job.installed)
    for artifact in (variant.model, release.golden):
        store.require(artifact.digest)
    model, golden = store.path(variant.model.digest), b""
    try:
        examine(variant, model)
        golden = store.path(release.golden.digest).read_bytes()
        require_golden(golden)
        runtime = load(variant, model, job.installed, outside=_outside(job, disk, variant))
    except WorkerError:
        raise  # it speaks of the process that was to load the model, as a death of this one would
    except (ContractError, ModelError) as why:
        _require_memory(str(why))
        refused = Finding(check="load", held=False, why=str(why)[:500])
        return CheckAnswer(findings=(refused,), rss_bytes=_resident_bytes(), code=why.code)
    with closing(runtime):
        finding = check_golden(runtime, golden, release.golden_tolerance)
        rss_bytes = _resident_bytes() + _resident_outside(job, runtime)
        if not finding.held:
            _require_memory(finding.why)
        labels = None
        if finding.held and (job.samples or job.kept):
            from agent.worker.labelled import measure

            labels = measure(runtime, release, job)
    return CheckAnswer(findings=(finding,), rss_bytes=rss_bytes, labels=labels)


def _outside(job: CheckJob, disk: Disk, variant: Variant) -> "Outside | None":
    """Return the process of its own in which a variant runs; what it compiles is awaited.

    A slot that wants one for the agent's own runtimes needs none here: this is one.
    """
    if not job.runtimes:
        return None
    from agent.infer.placing import Placing

    outside = Placing(disk, job.runtimes).outside(variant, job.installed)
    return dataclasses.replace(outside, awaits_build=True) if outside else None


def _resident_outside(job: CheckJob, runtime: "Runtime") -> int:
    if not job.runtimes:
        return 0
    from agent.infer.external.model import ExternalRuntime
    from agent.infer.stateful import Stateful

    inner = runtime.runtime if isinstance(runtime, Stateful) else runtime
    return inner.resident_bytes() if isinstance(inner, ExternalRuntime) else 0


def _require_memory(why: str) -> None:
    if _NO_MEMORY.search(why):
        raise MemoryError(why)


def probe(job: ProbeJob) -> ProbeAnswer:
    """Try one library with a real inference, or count the labelled windows.

    Raises:
        RuntimeMissingError: The library does not work here.

    """
    if job.library is not None:
        from agent.infer.probing import probe as probe_library

        return ProbeAnswer(runtimes=(probe_library(job.library),))
    if job.runtime is not None:
        from agent.infer.probing import probe_worker

        return ProbeAnswer(runtimes=(probe_worker(job.runtime.name, job.runtime.wanted),))
    if job.samples is None:
        return ProbeAnswer(runtimes=())
    from agent.learn.samples import Split, load_samples

    try:
        windows = load_samples(Path(job.samples))
    except (ConfigError, ContractError) as why:
        return ProbeAnswer(runtimes=(), why=str(why))
    counts = {split: len(windows.of(split)[1]) for split in Split}
    return ProbeAnswer(
        runtimes=(),
        train=counts[Split.TRAIN],
        decide=counts[Split.DECIDE],
        withheld=counts[Split.WITHHELD],
    )


def learn(job: LearnJob) -> LearnAnswer:
    """Do one task of a federated round on embeddings of the backbone.

    Raises:
        ConfigError: There are no labelled windows, or they cannot be read.
        ModelError: The release has no trainable head.

    """
    from agent.infer.labelled import embed
    from agent.infer.variants import choose, load
    from agent.learn.trainer import answer_task
    from agent.worker.labelled import own_windows

    store = Store(Disk(Path(job.state_dir)))
    release = store.read_manifest(job.backbone)
    head = release.head
    if head is None:
        raise ModelError(f"{release.target} has no trainable head")
    variant = choose(release, job.hardware, job.installed)
    runtime = load(variant, store.path(variant.model.digest), job.installed)
    answered = answer_task(
        job.message,
        job.kind,
        lambda windows: embed(runtime, windows, head.embedding),
        own_windows(job, release),
    )
    return LearnAnswer(
        reply=answered.reply,
        decide=answered.decide,
        withheld=answered.withheld,
        decide_running=answered.decide_running,
        withheld_running=answered.withheld_running,
    )


def _resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def _die_with(parent: int) -> None:
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        raise SystemExit(1)


def _limit(limits: Limits) -> None:
    if limits.memory_bytes is not None:
        resource.setrlimit(resource.RLIMIT_AS, (limits.memory_bytes, limits.memory_bytes))
    if limits.cpu_seconds is not None:
        resource.setrlimit(resource.RLIMIT_CPU, (limits.cpu_seconds, limits.cpu_seconds))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.nice(limits.nice)
    if limits.idle_disk and platform.machine() in _IOPRIO_SET:
        ctypes.CDLL(None).syscall(_IOPRIO_SET[platform.machine()], _THIS_PROCESS, 0, _IDLE_DISK)
