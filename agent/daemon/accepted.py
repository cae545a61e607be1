"""The newest assignment that was believed, as it lies on the medium: ``accepted.json``."""

from agent.contract.belief import Accepted
from agent.contract.codec import Versioned
from agent.contract.manifest import Name
from agent.contract.messages import Assigned, Count

ACCEPTED = "accepted.json"


class AcceptedAssignment(Versioned, frozen=True, kw_only=True):
    """``accepted.json``: the newest assignment that was believed, and what it wishes."""

    accepted: Accepted
    slots: dict[Name, Assigned]
    expires_ms: Count
