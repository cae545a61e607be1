"""Who may still join: enrolment tokens, known by their public key only."""

from dataclasses import dataclass
from enum import StrEnum


class Approval(StrEnum):
    """What a token is good for: ``auto`` enrols at once, ``manual`` waits for an operator."""

    AUTO = "auto"
    MANUAL = "manual"


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """One enrolment token.

    Attributes:
        key: Its Ed25519 public key, 64 hex digits.
        group: The group that its devices join.
        uses: How many devices may use it.
        expires_ms, created_ms: Wall clock, ms since 1970.
        used_by: Device ids, in order of use.

    """

    key: str
    group: str
    uses: int
    expires_ms: int
    approval: Approval
    created_ms: int
    used_by: tuple[str, ...] = ()


class Tokens:
    """Enrolment tokens."""

    def add(
        self, key: str, *, group: str, uses: int, expires_ms: int, approval: Approval, at_ms: int
    ) -> Token:
        """Add a token.

        Raises:
            ConflictError: The key is known already.
            RefusedError: No use, or it is expired already.

        """
        raise NotImplementedError

    def find(self, key: str) -> Token | None:
        """Return the token with this public key."""
        raise NotImplementedError

    def use(self, key: str, device: str, *, at_ms: int) -> bool:
        """Count one use; True if the device may join.

        A device that used it before may use it again, whatever is left, so that a lost
        reply costs nothing. False for an unknown, expired or used-up token.
        """
        raise NotImplementedError

    def listing(self) -> list[Token]:
        """Return every token, newest first."""
        raise NotImplementedError
