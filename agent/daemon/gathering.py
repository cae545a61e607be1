"""Trust metadata on its way: one request at a time, its answer collected from pieces.

Rule 1: pieces of another request, and more bytes than a bundle may have, are dropped.
Rule 2: who does not answer is asked again, with patience that doubles.
"""

import math
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field

from agent.contract.authority import AUTHORITY_TARGET
from agent.contract.codec import decode
from agent.contract.endpoints import ENDPOINTS_TARGET
from agent.contract.frames import Piece
from agent.contract.limits import MAX_METADATA_BYTES
from agent.contract.messages import MetaBundle, MetaRequest
from agent.daemon.agenda import Agenda
from agent.errors import MalformedError

ALWAYS = (AUTHORITY_TARGET, ENDPOINTS_TARGET)
MAX_BUNDLE_BYTES = 2 * MAX_METADATA_BYTES
MAX_TARGETS = 16
MAX_DOUBLINGS = 4
APPOINTMENT = "metadata"


@dataclass(slots=True)
class _Asked:
    request: MetaRequest
    pieces: dict[int, bytes] = field(default_factory=dict)
    total: int = 0
    size_bytes: int = 0


class Gathering:
    """The request under way, if any."""

    def __init__(
        self,
        ask: Callable[[MetaRequest], bool],
        *,
        wants: Callable[[], tuple[int, tuple[str, ...]]],
        agenda: Agenda,
        monotonic: Callable[[], float],
        answer_seconds: float,
    ) -> None:
        """``wants`` returns the root version held and the target names wanted now."""
        self._ask = ask
        self._wants = wants
        self._agenda = agenda
        self._monotonic = monotonic
        self._answer_seconds = answer_seconds
        self._asked: _Asked | None = None
        self._asked_at = -math.inf
        self._tries = 0

    @property
    def under_way(self) -> bool:
        """Whether something is asked, or is about to be."""
        return self._asked is not None or self._agenda.holds(APPOINTMENT)

    def begin(self) -> None:
        """Ask now, with a new request."""
        root, targets = self._wants()
        names = (*ALWAYS, *targets[:MAX_TARGETS])
        request = MetaRequest(id=secrets.token_hex(8), root=root, targets=names)
        self._asked = _Asked(request)
        self._asked_at = self._monotonic()
        self._tries += 1
        self._ask(request)
        wait = self._answer_seconds * 2.0 ** min(self._tries - 1, MAX_DOUBLINGS)
        self._agenda.at(APPOINTMENT, self._asked_at + wait, self.begin)

    def begin_at_our_pace(self) -> None:
        """Ask, but not sooner after the last time than an answer may take."""
        if not self.under_way:
            soonest = max(self._asked_at + self._answer_seconds, self._monotonic())
            self._agenda.at(APPOINTMENT, soonest, self.begin)

    def connected(self) -> None:
        """Ask anew on a new connection what the old one did not bring."""
        self._tries = 0
        if self._asked is not None:
            self.begin()

    def take(self, piece: Piece) -> tuple[tuple[str, ...], dict[str, bytes]] | None:
        """Return the targets asked for and the files, once the last piece is there.

        Raises:
            MalformedError: The whole is no bundle, or is too large; the request is over.

        """
        asked = self._asked
        if asked is None or piece.name != bytes.fromhex(asked.request.id):
            return None
        asked.total = asked.total or piece.total
        if piece.total != asked.total or piece.index in asked.pieces:
            return None
        asked.pieces[piece.index] = piece.content
        asked.size_bytes += len(piece.content)
        if asked.size_bytes > MAX_BUNDLE_BYTES:
            self._end()
            raise MalformedError(f"metadata bundle is over {MAX_BUNDLE_BYTES} bytes")
        if len(asked.pieces) < asked.total:
            return None
        self._end()
        content = b"".join(asked.pieces[i] for i in range(asked.total))
        bundle = decode(MetaBundle, content, limit=MAX_BUNDLE_BYTES)
        return tuple(t for t in asked.request.targets if t not in ALWAYS), bundle.files

    def _end(self) -> None:
        self._asked, self._tries = None, 0
        self._agenda.cancel(APPOINTMENT)
