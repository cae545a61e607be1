"""What the offline keys say of the fleet itself: who directs it, and who may go back.

    fleet/authority.json   who may direct and enrol
    fleet/permits.json     ways back beside ``rollback_to`` of a manifest
    fleet/endpoints.json   where the brokers are: ``contract.endpoints``

Rule 1: these are TUF targets, believed through the metadata and never for a signature of
        their own; no message replaces them.
"""

from typing import Annotated, Final

from msgspec import Meta, Struct

from agent.contract.codec import Versioned
from agent.contract.manifest import Digest, Name
from agent.contract.messages import Count, Hex64

AUTHORITY_TARGET: Final = "fleet/authority.json"
PERMITS_TARGET: Final = "fleet/permits.json"


class Authority(Versioned, frozen=True, kw_only=True):
    """The TUF target ``fleet/authority.json``: who may direct and enrol, offline-signed."""

    fleet: Name
    director_epoch: Count
    director_keys: Annotated[tuple[Hex64, ...], Meta(min_length=1, max_length=8)]
    enrolment_keys: Annotated[tuple[Hex64, ...], Meta(min_length=1, max_length=8)]


class Permit(Struct, frozen=True, kw_only=True):
    """Lets devices go back to an older release of a slot, until it expires.

    Attributes:
        release: Manifest digest that may be installed although its counter is lower.
        devices: Who may; empty is every device of the fleet.

    """

    release: Digest
    slot: Name
    devices: Annotated[tuple[Name, ...], Meta(max_length=100_000)] = ()
    expires_ms: Count


class Permits(Versioned, frozen=True, kw_only=True):
    """The TUF target ``fleet/permits.json``: ways back beside ``rollback_to``, offline-signed."""

    fleet: Name
    permits: Annotated[tuple[Permit, ...], Meta(max_length=1000)] = ()
