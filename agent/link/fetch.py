"""One artifact over the broker: receiver-driven, resumable, every chunk checked."""

from dataclasses import dataclass

from agent.contract.frames import Piece
from agent.contract.manifest import Artifact
from agent.contract.messages import ChunkRequest
from agent.disk import Disk


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetching:
    """Under way."""

    digest: str
    chunks: int
    of: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetched:
    """Complete, verified and in the store under its digest."""

    digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchFailed:
    """Given up; what was fetched is kept for the next try where that makes sense."""

    digest: str
    code: str
    why: str
    retryable: bool


Progress = Fetching | Fetched | FetchFailed


class Fetch:
    """The transfer of one artifact; time is an argument (monotonic seconds)."""

    def __init__(
        self,
        artifact: Artifact,
        disk: Disk,
        *,
        now_seconds: float,
        folder: str = "store",
        stall_seconds: float = 60.0,
    ) -> None:
        """Begin, or resume from the chunk map of an earlier try.

        Raises:
            DiskFullError: The rest of the artifact does not fit on the disk.
            NewerStateError: The chunk map was written by a newer version.

        """
        raise NotImplementedError

    def requests(self, now_seconds: float) -> tuple[ChunkRequest, ...]:
        """Return what to ask for now; call after each ``take`` and when ``wait`` is over."""
        raise NotImplementedError

    def take(self, piece: Piece, now_seconds: float) -> Progress:
        """Check and store one piece."""
        raise NotImplementedError

    def progress(self, now_seconds: float) -> Progress:
        """Return where the transfer stands; a stalled one fails here."""
        raise NotImplementedError

    def wait_seconds(self, now_seconds: float) -> float:
        """Return how long nothing needs to be asked unless a piece arrives."""
        raise NotImplementedError
