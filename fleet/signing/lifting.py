"""The list of targets again, above what devices have seen of it: after a restore from a copy.

Rule 1: a version is jumped over only where nothing else changes, so that whoever signs sees at
        once what it is.
Rule 2: the jump is bounded: nobody is led to use up the numbers.
"""

from datetime import datetime
from typing import Final

from tuf.api.metadata import Metadata, Targets

from fleet.errors import SigningError
from fleet.signing.metadata import LIFETIMES, parse
from fleet.signing.proposal import Proposal
from fleet.signing.published import Published

MAX_AHEAD: Final = 10_000
"""How far above its own versions a manager believes that a lost one had come."""


def propose_lift(held: Published, seen: int, now: datetime) -> Proposal:
    """Propose the targets in force with a version above one that devices have seen.

    Args:
        held: What is in force.
        seen: The highest version of targets that a device reports.
        now: Aware datetime; the expiry is counted from here.

    Raises:
        SigningError: Devices have seen nothing newer, or something too far ahead to be true.

    """
    before = held.targets.version
    if not before < seen <= before + MAX_AHEAD:
        raise SigningError(
            f"targets metadata is version {before}, devices have seen {seen}: nothing to resume"
        )
    targets = parse(Targets, held.targets_bytes).signed
    targets.version, targets.expires = seen + 1, now + LIFETIMES["targets"]
    return Proposal(
        what=f"resume targets above version {seen}",
        root_before=held.root_bytes,
        metadata_before={"targets": held.targets_bytes},
        metadata={"targets": Metadata(targets).to_bytes()},
    )


def is_lift(before: Targets, after: Targets) -> bool:
    """Return whether only version and expiry differ, and the version is above the next."""
    same = (before.targets, before.delegations) == (after.targets, after.delegations)
    return same and before.version + 1 < after.version <= before.version + MAX_AHEAD + 1
