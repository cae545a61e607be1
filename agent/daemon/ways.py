"""The ways by which chunks come to this device, joined: HTTP, alone over MQTT, or for many."""

import os
import time
from collections.abc import Callable
from typing import assert_never

from agent.config import Config, LinkConfig
from agent.contract.grants import believe_grant
from agent.contract.manifest import Artifact
from agent.contract.messages import Authority
from agent.contract.proxy import Proxies
from agent.daemon.agenda import Agenda
from agent.daemon.downloading import PATIENCE_SECONDS, Downloading, Surroundings
from agent.daemon.listening import Listening
from agent.daemon.reporting import Reporting
from agent.disk import Disk
from agent.link.budget import Budget
from agent.link.inbox import Inbox, Lane
from agent.link.ranges import Chunk, Ended, Leave, RangeReader
from agent.link.route import default_interface
from agent.link.session import Broker


def open_budget(config: Config, disk: Disk, signed_ms: Callable[[], int]) -> Budget:
    """Return what artifacts may cost on the links of this device.

    Raises:
        NewerStateError: A newer agent wrote what was spent.

    """
    return Budget(disk, config.budget, interface=default_interface, signed_ms=signed_ms)


def open_downloading(
    link: LinkConfig,
    agenda: Agenda,
    inbox: Inbox,
    *,
    broker: Broker,
    reporting: Reporting,
    listening: Listening,
    authority: Callable[[], Authority],
) -> Downloading:
    """Return the room that prefers HTTP, with ``listening`` for what does not come so."""
    patience_seconds = min(link.stall_seconds / 4, PATIENCE_SECONDS)

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

    return Downloading(
        agenda,
        Surroundings(
            ask_leave=reporting.ask,
            ask=listening.ask,
            hush=listening.stop,
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
