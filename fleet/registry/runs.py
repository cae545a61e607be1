"""Federated runs as rows, and the spool of their answers.

What the texts mean is known to ``fleet.rounds`` alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRow:
    """One federated run; plan and state are JSON texts of ``fleet.rounds``."""

    id: str
    plan: bytes
    state: bytes
    status: str
    active: bool
    created_ms: int
    changed_ms: int


class Runs:
    """Run rows, their journalled events, and the answers of devices."""

    def create(self, run: str, *, plan: bytes, state: bytes, status: str, at_ms: int) -> None:
        """Add a run.

        Raises:
            ConflictError: The name is taken.

        """
        raise NotImplementedError

    def find(self, run: str) -> RunRow | None:
        """Return one run."""
        raise NotImplementedError

    def listing(self, active: bool | None = None) -> list[RunRow]:  # noqa: FBT001
        """Return runs, oldest first."""
        raise NotImplementedError

    def advance(
        self, run: str, *, event: bytes, state: bytes, status: str, active: bool, at_ms: int
    ) -> None:
        """Journal one event (JSON object) and the state after it, together."""
        raise NotImplementedError

    def save_state(self, run: str, state: bytes, *, status: str, active: bool, at_ms: int) -> None:
        """Keep a state without an event of its own."""
        raise NotImplementedError

    def journal(self, run: str) -> list[bytes]:
        """Return the journalled events as JSON, oldest first."""
        raise NotImplementedError

    def answer_keep(self, run: str, task: str, device: str, payload: bytes, *, at_ms: int) -> bool:
        """Spool the answer to a task; False if there is one already, which stays."""
        raise NotImplementedError

    def answer(self, run: str, task: str) -> bytes | None:
        """Return the spooled answer."""
        raise NotImplementedError

    def answers(self, run: str) -> Mapping[str, bytes]:
        """Return every spooled answer of a run, by task."""
        raise NotImplementedError

    def blob_keep(self, run: str, name: str, payload: bytes, *, at_ms: int) -> bool:
        """Spool other bytes of a run (a pushed message, the final weights); first one stays."""
        raise NotImplementedError

    def blob(self, run: str, name: str) -> bytes | None:
        """Return spooled bytes by name."""
        raise NotImplementedError
