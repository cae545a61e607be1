"""The newest assignment that was believed, as it lies on the medium: ``accepted.json``.

Content keys of encrypted releases stay in their boxes here, and stay for a while after an
assignment that no longer names them: what rotted may have to be fetched and opened again.
"""

from collections.abc import Mapping

from msgspec import field

from agent.contract.belief import Accepted
from agent.contract.codec import Versioned
from agent.contract.manifest import Digest, Name
from agent.contract.messages import Assigned, Count, SealedKey

ACCEPTED = "accepted.json"


MAX_KEPT_KEYS = 256


class AcceptedAssignment(Versioned, frozen=True, kw_only=True):
    """``accepted.json``: the newest assignment that was believed, and what it wishes.

    Attributes:
        keys: Sealed content keys as in the assignment, the newest first.

    """

    accepted: Accepted
    slots: dict[Name, Assigned]
    expires_ms: Count
    keys: dict[Digest, SealedKey] = field(default_factory=dict)


def keys_to_keep(new: Mapping[str, bytes], before: AcceptedAssignment | None) -> dict[str, bytes]:
    """Return the keys of a new assignment and, as far as there is room, earlier ones."""
    known = {
        **new,
        **{d: box for d, box in (before.keys if before else {}).items() if d not in new},
    }
    return dict(list(known.items())[:MAX_KEPT_KEYS])
