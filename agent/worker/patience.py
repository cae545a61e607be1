"""What a child may use whose model runs in another process: longer, and without a limit of ours.

Rule 1: a limit of memory would be inherited by the process that the child starts, and a
        graphics driver reserves far more than it uses; that process has a limit of its own.
Rule 2: where something is compiled for the first time, it may be at the start and again at
        the first inference.
"""

from contextlib import suppress

from agent.contract.manifest import Release
from agent.errors import AgentError
from agent.infer.probing import probe_seconds
from agent.infer.variants import choose, host_of
from agent.worker.jobs import CheckJob, Limits, ProbeJob


def for_probe(job: ProbeJob, usual: Limits) -> Limits:
    """Return the limits of a probe."""
    if job.runtime is None:
        return usual
    return Limits(seconds=usual.seconds + 2 * probe_seconds(job.runtime.wanted))


def for_check(job: CheckJob, release: Release, usual: Limits) -> Limits:
    """Return the limits of the check of a release."""
    with suppress(AgentError):  # the check itself will say that nothing runs it
        variant = choose(release, job.hardware, job.installed)
        hosted = host_of(variant, job.installed)
        wanted = job.runtimes.get(hosted.worker) if hosted else None
        if wanted is not None:
            longer = wanted.start_seconds + 2 * wanted.build_seconds
            return Limits(seconds=usual.seconds + longer)
    return usual
