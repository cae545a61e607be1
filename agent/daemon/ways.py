"""The ways by which artifacts come to this device, joined: HTTP, alone over MQTT, or for many.

Rule 1: these rooms know each other only through what they are given here.
Rule 2: the content key of an encrypted artifact is opened when a child makes it, and is
        kept nowhere.
"""

import os
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import assert_never

from nacl.signing import SigningKey

from agent.config import Config, LinkConfig
from agent.contract.authority import Authority
from agent.contract.frames import Piece
from agent.contract.grants import believe_grant
from agent.contract.manifest import Artifact, Source
from agent.contract.proxy import Proxies
from agent.contract.sealing import unwrap_key
from agent.contract.sources import full_source
from agent.contract.topics import Address
from agent.daemon import downloading, listening, transfers
from agent.daemon.agenda import Agenda
from agent.daemon.children import Children
from agent.daemon.reporting import Reporting
from agent.daemon.seeding import Seeding
from agent.errors import AgentError
from agent.link.budget import Budget
from agent.link.fetch import FetchFailed
from agent.link.inbox import Inbox, Lane
from agent.link.ranges import Chunk, Ended, Leave, RangeReader
from agent.link.route import default_interface
from agent.link.session import Broker
from agent.refusals import NoContentKeyError
from agent.update import machine
from agent.update.store import Store
from agent.worker.jobs import RebuildAnswer


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What these rooms need of the others.

    Attributes:
        authority: Who may direct this device, now.
        signed_ms: Signed time, ms since 1970.
        keys: Content keys of encrypted artifacts by their full stream, in their boxes.
        kept: The manifests whose artifacts are worth a look before anything is fetched.
        tell: Tells the machine of a slot what came, or did not.

    """

    authority: Callable[[], Authority]
    signed_ms: Callable[[], int]
    keys: Callable[[], Mapping[str, bytes]]
    kept: Callable[[], Collection[str]]
    tell: Callable[[str, machine.SlotEvent], None]


class Ways:
    """From what is missing of a release to the store."""

    def __init__(
        self,
        config: Config,
        store: Store,
        agenda: Agenda,
        inbox: Inbox,
        around: Surroundings,
        *,
        signing: SigningKey,
        broker: Broker,
        reporting: Reporting,
        children: Children,
    ) -> None:
        """Join them.

        Raises:
            NewerStateError: A newer agent wrote what was spent of the budget.

        """
        self._store = store
        self._around = around
        self._signing = signing
        self._reporting = reporting
        self._children = children
        self.budget = budget = Budget(
            store.disk, config.budget, interface=default_interface, signed_ms=around.signed_ms
        )
        self.listening = listening.Listening(
            agenda,
            listening.Surroundings(
                ask=reporting.ask,
                listen=broker.listen,
                unlisten=broker.unlisten,
                monotonic=time.monotonic,
                paced=lambda: budget.paced,
            ),
        )
        self.downloading = _open_downloading(
            config.link,
            agenda,
            inbox,
            broker=broker,
            reporting=reporting,
            otherwise=self.listening,
            authority=around.authority,
        )
        self.transfers = transfers.Transfers(
            store.disk,
            agenda,
            self._around_transfers(),
            stall_seconds=config.link.stall_seconds,
            seeding=Seeding(store, around.kept),
            budget=budget,
        )

    def downloaded(self, item: Chunk) -> None:
        """Take a chunk that came over HTTP."""
        piece = self.downloading.takes(item)
        if piece is not None:
            self.downloading.judged(piece, good=self.transfers.take(piece))

    def heard(self, address: Address, piece: Piece) -> None:
        """Take a chunk that was sent to many."""
        self.listening.heard(address, piece.index)
        self.transfers.take(piece)

    def rebuilt(self, digest: str, answer: RebuildAnswer | AgentError) -> None:
        """Take the answer of the child that made an artifact, or could not."""
        if isinstance(answer, RebuildAnswer):
            self._store.seals.keep(digest, answer.seal)
        self.transfers.rebuilt(digest, answer)

    def _around_transfers(self) -> transfers.Surroundings:
        def failed(slot: str, release: str, failure: FetchFailed) -> None:
            news = machine.FetchFailed(release, failure.code, failure.why, failure.retryable)
            self._around.tell(slot, news)

        return transfers.Surroundings(
            ask=self.downloading.ask,
            fetching=self.downloading.fetching,
            waits=self._waits,
            done=lambda slot, release: self._around.tell(slot, machine.Fetched(release)),
            failed=failed,
            hashed=self._store.seal,
            rebuild=self._rebuild,
            monotonic=time.monotonic,
        )

    def _rebuild(self, artifact: Artifact, source: Source) -> None:
        """Make an artifact from a source, with its content key where it is encrypted."""
        key = self._opened_key(artifact) if artifact.encrypted else None
        self._children.rebuild(artifact, source, key)

    def _opened_key(self, artifact: Artifact) -> bytes:
        box = self._around.keys().get(full_source(artifact).digest)
        if box is None:
            raise NoContentKeyError(
                f"no assignment brought the key of encrypted artifact {artifact.digest[:16]}"
            )
        return unwrap_key(box, self._signing)

    def _waits(self, slot: str, why: AgentError) -> None:
        self.downloading.stop()
        self.listening.stop()
        self._reporting.alarm(why.code, f"{slot}: {why}", slot=slot)


def _open_downloading(
    link: LinkConfig,
    agenda: Agenda,
    inbox: Inbox,
    *,
    broker: Broker,
    reporting: Reporting,
    otherwise: listening.Listening,
    authority: Callable[[], Authority],
) -> downloading.Downloading:
    """Return the room that prefers HTTP, with ``otherwise`` for what does not come so."""
    patience_seconds = min(link.stall_seconds / 4, downloading.PATIENCE_SECONDS)

    def put(news: Chunk | Ended) -> bool:
        match news:
            case Chunk(piece=piece):
                return inbox.put(Lane.CHUNKS, news, size_bytes=len(piece.content))
            case Ended():
                return inbox.put(Lane.CONTROL, news)
            case _:
                assert_never(news)

    def start(artifact: Artifact, url: str, shown: str, number: int) -> RangeReader:
        proxies = Proxies(link.proxy, os.environ)
        leave = Leave(url=url, shown=shown, ca=broker.ca, proxies=proxies)
        return RangeReader(
            artifact, leave, number=number, put=put, patience_seconds=patience_seconds
        )

    return downloading.Downloading(
        agenda,
        downloading.Surroundings(
            ask_leave=reporting.ask,
            ask=otherwise.ask,
            hush=otherwise.stop,
            believe=lambda payload: believe_grant(
                payload, authority=authority(), device=reporting.signer.device
            ),
            open=start,
            alarm=reporting.alarm,
            monotonic=time.monotonic,
        ),
        allowed=link.downloads,
        patience_seconds=patience_seconds,
    )
