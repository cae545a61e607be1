"""What this device can do, asked in several children and joined into one answer.

Rule 1: one child tries one library, and another counts the labelled windows: whichever dies
        takes no other answer with it.
Rule 2: a child that died of what it did is a finding about its library; one that was killed,
        or ran out of time, is none, and is asked again.
"""

import signal
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from agent.config_runtime import RuntimeConfig
from agent.errors import AgentError, ChildDiedError, RuntimeMissingError
from agent.infer import probing
from agent.worker.jobs import ProbeAnswer, ProbeJob, Tried, Unusable
from agent.worker.start import signal_name

SAMPLES: Final = "samples"
"""Ticket of the child that counts the labelled windows; the others are called as libraries."""

_RUNTIME: Final = "runtime."
"""Before the name of one that runs in a process of its own."""

FATAL: Final = frozenset(
    {
        signal.SIGILL,
        signal.SIGSEGV,
        signal.SIGBUS,
        signal.SIGFPE,
        signal.SIGABRT,
        signal.SIGTRAP,
        signal.SIGSYS,
    }
)
"""Signals that a process brings upon itself."""


def probe_jobs(
    samples: str | None, runtimes: Mapping[str, RuntimeConfig] = MappingProxyType({})
) -> dict[str, ProbeJob]:
    """Return the jobs of a probe by their tickets.

    Args:
        samples: The file of labelled windows, if the operator named one.
        runtimes: Those of the configuration, in processes of their own.

    """
    jobs = {library: ProbeJob(library=library) for library in probing.present()}
    for name, wanted in runtimes.items():
        jobs[f"{_RUNTIME}{name}"] = ProbeJob(runtime=Tried(name=name, wanted=wanted))
    return jobs if samples is None else {**jobs, SAMPLES: ProbeJob(samples=samples)}


def is_final(answer: ProbeAnswer | AgentError) -> bool:
    """Return whether asking again would be answered in the same way."""
    match answer:
        case ProbeAnswer() | RuntimeMissingError():
            return True
        case ChildDiedError():
            return answer.signal in FATAL
        case AgentError():
            return False


def joined(answers: Mapping[str, ProbeAnswer | AgentError]) -> ProbeAnswer:
    """Return what the children found together, and why some of them found nothing."""
    found = {ticket: a for ticket, a in answers.items() if isinstance(a, ProbeAnswer)}
    counted = found.get(SAMPLES, ProbeAnswer(runtimes=()))
    uncounted = answers.get(SAMPLES)
    return ProbeAnswer(
        runtimes=tuple(
            runtime
            for library in (*probing.LIBRARIES, *(t for t in found if t.startswith(_RUNTIME)))
            if library in found
            for runtime in found[library].runtimes
        ),
        train=counted.train,
        decide=counted.decide,
        withheld=counted.withheld,
        why=str(uncounted) if isinstance(uncounted, AgentError) else counted.why,
        unusable=tuple(
            Unusable(library=library, code=why.code, why=_tell(library, why))
            for library, why in answers.items()
            if isinstance(why, AgentError) and library != SAMPLES
        ),
    )


def _tell(library: str, why: AgentError) -> str:
    if not isinstance(why, ChildDiedError):
        return str(why)
    name = signal_name(why.signal)
    return (
        f"{library}{_version(library)} was killed by {name} when it made its first inference "
        "here: its build is not for this machine, and no model is run by it"
    )


def _version(library: str) -> str:
    # nearly a megabyte, for a sentence that few devices ever say
    from importlib.metadata import PackageNotFoundError, version  # noqa: PLC0415

    try:
        return f" {version(library)}"
    except PackageNotFoundError:
        return ""
