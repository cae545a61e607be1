"""One run of python-tuf over metadata that has already been collected.

Only the short-lived child imports this module. See ``agent.update.trust`` for values.
"""

from agent.update.trust import RefreshJob, RefreshResult


def refresh(job: RefreshJob) -> RefreshResult:
    """Verify a metadata bundle against the trust so far; raises no ``AgentError``."""
    raise NotImplementedError
