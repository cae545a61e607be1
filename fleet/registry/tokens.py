"""Who may still join: enrolment tokens, known by their public key only.

Rule 1: a token is known by its public key; its seed is never here.
Rule 2: a request carries no time, so its nonce is remembered for ever: an old one that
        somebody recorded must not reset a device's password, after a restart neither.
        ``MAX_NONCES`` bounds what one device can make the manager remember.
"""

import sqlite3
from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from fleet.errors import ConflictError, RefusedError
from fleet.registry.database import Database
from fleet.registry.events import Events

MAX_NONCES: Final = 50_000
"""Requests of one device: waiting for approval for two days, asking every few seconds."""


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
        listed: How many devices it is for; 0 is any device.

    """

    key: str
    group: str
    uses: int
    expires_ms: int
    approval: Approval
    created_ms: int
    used_by: tuple[str, ...] = ()
    listed: int = 0


class Tokens:
    """Enrolment tokens."""

    def __init__(self, database: Database, events: Events) -> None:
        self._database = database
        self._events = events

    def add(
        self,
        key: str,
        *,
        group: str,
        uses: int,
        expires_ms: int,
        approval: Approval,
        at_ms: int,
        devices: Collection[str] = (),
    ) -> Token:
        """Add a token; ``devices`` are the only ones that it is for, none is any device.

        Raises:
            ConflictError: The key is known already.
            RefusedError: No use, or it is expired already.

        """
        if uses < 1 or expires_ms <= at_ms:
            raise RefusedError("a token needs at least one use and an expiry in the future")
        with self._database.joined():
            if self.find(key) is not None:
                raise ConflictError(f"token {key[:16]} exists already")
            self._database.write(
                "INSERT INTO tokens (key, group_name, uses, expires_ms, approval, created_ms) "
                "VALUES (?, ?, ?, ?, ?, ?)",
                key,
                group,
                uses,
                expires_ms,
                approval.value,
                at_ms,
            )
            for device in devices:
                self._database.write(
                    "INSERT INTO token_devices (token, device) VALUES (?, ?)", key, device
                )
            body: dict[str, str | int] = {
                "group": group,
                "uses": uses,
                "expires_ms": expires_ms,
                "approval": approval,
            }
            if devices:
                body["listed"] = len(devices)
            self._events.record("token.created", key, body, at_ms=at_ms)
        return Token(
            key=key,
            group=group,
            uses=uses,
            expires_ms=expires_ms,
            approval=approval,
            created_ms=at_ms,
            listed=len(devices),
        )

    def find(self, key: str) -> Token | None:
        """Return the token with this public key."""
        row = self._database.row("SELECT * FROM tokens WHERE key = ?", key)
        return self._token(row) if row else None

    def invites(self, key: str, device: str) -> bool:
        """Return whether a token is for a device: it lists none, or this one."""
        return (
            self._database.row("SELECT 1 FROM token_devices WHERE token = ? LIMIT 1", key) is None
            or self._database.row(
                "SELECT 1 FROM token_devices WHERE token = ? AND device = ?", key, device
            )
            is not None
        )

    def use(self, key: str, device: str, *, at_ms: int) -> bool:
        """Count one use; True if the device may join.

        A device that used it before may use it again, whatever is left, so that a lost
        reply costs nothing. False for an unknown, expired or used-up token.
        """
        with self._database.joined():
            token = self.find(key)
            if token is None:
                return False
            if device in token.used_by:
                return True
            if token.expires_ms <= at_ms or len(token.used_by) >= token.uses:
                return False
            self._database.write(
                "INSERT INTO token_uses (token, device, at_ms) VALUES (?, ?, ?)",
                key,
                device,
                at_ms,
            )
            self._events.record("token.used", key, {"device": device}, at_ms=at_ms)
            return True

    def is_answered(self, nonce: str) -> bool:
        """Return whether a request under this nonce must not be acted upon again."""
        row = self._database.row("SELECT answered FROM enrol_nonces WHERE nonce = ?", nonce)
        return row is not None and bool(row["answered"])

    def open_nonce(self, nonce: str, device: str, *, at_ms: int) -> None:
        """Remember the newest request of a device; every older one is answered with it.

        The same request again changes nothing: after a crash the broker delivers it once
        more, and then it still is to be answered.

        Raises:
            RefusedError: The device asked ``MAX_NONCES`` times.

        """
        with self._database.joined():
            if self._database.row("SELECT 1 FROM enrol_nonces WHERE nonce = ?", nonce):
                return
            self.close_nonces(device)
            asked = self._database.row(
                "SELECT count(*) AS asked FROM enrol_nonces WHERE device = ?", device
            )
            if asked and asked["asked"] >= MAX_NONCES:
                raise RefusedError(
                    f"device {device} asked {MAX_NONCES} times to join: a factory reset makes it "
                    "a new one"
                )
            self._database.write(
                "INSERT INTO enrol_nonces (nonce, device, answered, at_ms) VALUES (?, ?, 0, ?)",
                nonce,
                device,
                at_ms,
            )

    def close_nonces(self, device: str) -> None:
        """Let no request that a device made so far be acted upon again."""
        self._database.write(
            "UPDATE enrol_nonces SET answered = 1 WHERE device = ? AND answered = 0", device
        )

    def listing(self) -> list[Token]:
        """Return every token, newest first."""
        rows = self._database.rows("SELECT * FROM tokens ORDER BY created_ms DESC, rowid DESC")
        return [self._token(row) for row in rows]

    def _token(self, row: sqlite3.Row) -> Token:
        used = self._database.rows(
            "SELECT device FROM token_uses WHERE token = ? ORDER BY rowid", row["key"]
        )
        listed = self._database.row(
            "SELECT count(*) AS listed FROM token_devices WHERE token = ?", row["key"]
        )
        return Token(
            key=row["key"],
            group=row["group_name"],
            uses=row["uses"],
            expires_ms=row["expires_ms"],
            approval=Approval(row["approval"]),
            created_ms=row["created_ms"],
            used_by=tuple(use["device"] for use in used),
            listed=listed["listed"] if listed else 0,
        )
