"""What this device may believe at present: its root, its metadata, its clock, its orders.

Rule 1: expired trust stops nothing that runs; it stops what is new, and is said as such.
Rule 2: time is judged by the later of the system clock and the floor of signed time, as
        the agent does it.
"""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Final

import msgspec

from agent.contract.checkup import DAY_MS, Check, doubt, ill, span, well
from agent.doctor.facts import Held
from agent.errors import AgentError
from agent.identity.clock import BUILD_MS
from agent.update.trust import TrustState

SOON_MS: Final = 30 * DAY_MS
SKEW_MS: Final = 5 * 60_000
LONG_AWAY_MS: Final = 400 * DAY_MS
_SET_CLOCK: Final = "set it (`timedatectl`), and give it a time server that this network reaches"


class _Promise(msgspec.Struct, frozen=True):
    expires: datetime


class _Signed(msgspec.Struct, frozen=True):
    signed: _Promise


def check_trust(held: Held, now_ms: int) -> Iterator[Check]:
    """Judge root and metadata; silent where the device is not enrolled."""
    trusted = held.trusted
    if isinstance(trusted, AgentError):
        yield ill("trust", str(trusted))
        return
    if trusted is None or trusted.authority is None:
        if held.credentials is not None:
            yield ill("trust", "there is no pinned root: nobody may be believed; enrol it again")
        return
    try:
        expires_ms = trusted.root_expires_ms
        yield _check_root(trusted.root_version, expires_ms - _latest(held, now_ms))
        old = _ran_out(trusted, _latest(held, now_ms))
    except (AgentError, msgspec.MsgspecError) as why:
        yield ill("trust", f"the metadata kept here does not parse ({why}): enrol it again")
        return
    if old:
        yield doubt(
            "metadata",
            f"{', '.join(old)} as kept here has run out: the next release brings newer ones if "
            "the fleet signs in time; ask the manager (`fieldfare keys status`)",
        )


def check_clock(held: Held, now_ms: int) -> Iterator[Check]:
    """Compare the system clock with what was signed."""
    if isinstance(held.floor_ms, AgentError):
        yield ill("clock", str(held.floor_ms))
        return
    floor_ms, says = held.floor_ms, f"the system clock says {day_of(now_ms)}"
    behind = max(floor_ms, BUILD_MS) - now_ms
    if behind > SKEW_MS:
        signed = "the fleet signed a later time" if floor_ms > BUILD_MS else "this program is newer"
        yield ill("clock", f"{says}, {span(behind)} too early, for {signed}: {_SET_CLOCK}")
    elif floor_ms and now_ms - floor_ms > LONG_AWAY_MS:
        yield doubt(
            "clock",
            f"{says}, {span(now_ms - floor_ms)} after the newest signed time: unless this device "
            f"was away so long, the clock is wrong: {_SET_CLOCK}",
        )
    else:
        yield well("clock", says)


def clock_is_wrong(held: Held, now_ms: int) -> bool:
    """Return whether the system clock is known, or likely, to be wrong."""
    return any(check.state != "ok" for check in check_clock(held, now_ms))


def check_assignment(held: Held, now_ms: int) -> Check:
    """Judge what this device was last told to run."""
    newest = held.accepted
    if isinstance(newest, AgentError):
        return ill("assignment", str(newest))
    if newest is None:
        return well("assignment", "nothing was assigned yet")
    order = f"{newest.accepted.sequence} of director epoch {newest.accepted.director_epoch}"
    if newest.expires_ms <= _latest(held, now_ms):
        late = span(_latest(held, now_ms) - newest.expires_ms)
        return doubt(
            "assignment",
            f"{order} ran out {late} ago: what runs goes on, nothing new is begun; it is renewed "
            "when this device reaches its manager",
        )
    return well("assignment", order)


def _check_root(version: int, left_ms: int) -> Check:
    name = f"root {version}"
    if left_ms <= 0:
        return ill(
            "trust",
            f"{name} ran out {span(left_ms)} ago: no new release is believed until the fleet "
            "publishes a newer root (`fieldfare keys root propose`)",
        )
    if left_ms < SOON_MS:
        return doubt(
            "trust",
            f"{name} runs out in {span(left_ms)}: the fleet has to sign a newer one "
            "(`fieldfare keys root propose`)",
        )
    return well("trust", f"{name} holds for {span(left_ms)}")


def _ran_out(trusted: TrustState, now_ms: int) -> list[str]:
    """Return the roles that people sign and whose metadata here has run out.

    Snapshot and timestamp live for days, and a device that gets no release lets them lapse.
    """
    found = []
    for role, content in trusted.metadata.items():
        expires = msgspec.json.decode(content, type=_Signed).signed.expires
        lapsed = expires.astimezone(UTC).timestamp() * 1000 <= now_ms
        if lapsed and role not in {"root", "timestamp", "snapshot"}:
            found.append(role)
    return sorted(found)


def _latest(held: Held, now_ms: int) -> int:
    return now_ms if isinstance(held.floor_ms, AgentError) else max(now_ms, held.floor_ms)


def day_of(at_ms: int) -> str:
    """Return a moment for people, in UTC."""
    return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M UTC")
