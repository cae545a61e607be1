"""How the rounds of a run go: whom each asked, who answered, and why others did not.

Rule 1: reasons are grouped: sentences that differ in a number or a name are one reason.
Rule 2: only the newest rounds are shown; the journal has them all.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Final

from msgspec import Struct

from agent.contract.messages import Count
from fleet.rounds.engine import RunState
from fleet.rounds.sends import Send

SHOWN_ROUNDS: Final = 20
SHOWN_REASONS: Final = 10
_MANY: Final = re.compile(r"\bt-[0-9a-f]{20}\b|\bd-[a-z2-7]{16}\b|\b[0-9a-f]{16,64}\b|\d+(\.\d+)?")


class RoundView(Struct, frozen=True, kw_only=True):
    """One send of a run's program.

    Attributes:
        number: Counts the sends from 1.
        kind: ``train``, or ``evaluate`` where the program asks for a judgement.
        named: How many devices the program named.
        asked: How many of them are asked.
        wanted: So many good answers close it.
        answered: Good answers.
        without: Answers without a usable result: declined, failed or refused.
        open: Devices that have not answered.
        late, again: Tasks whose answer came too late, or came once more.
        deadline_ms: Until when it waits; None once it is closed.
        reasons: How many devices gave this reason for no result.
        put_off: How many devices gave this reason for answering later.

    """

    number: int
    kind: str
    named: Count
    asked: Count
    wanted: Count
    answered: Count
    without: Count
    open: Count
    late: Count
    again: Count
    deadline_ms: int | None
    reasons: dict[str, int]
    put_off: dict[str, int]


def rounds_of(state: RunState, put_off: Mapping[str, str]) -> tuple[RoundView, ...]:
    """Return the newest rounds, oldest first.

    Args:
        state: Where the run is.
        put_off: Why a device wants a task later, by task.

    """
    return tuple(_view(send, put_off) for send in state.sends[-SHOWN_ROUNDS:])


def grouped(reasons: Iterable[str]) -> dict[str, int]:
    """Return how often each reason was given, most often first.

    >>> grouped(["it has 3 windows", "it has 4 windows", "it is hot"])
    {'it has … windows': 2, 'it is hot': 1}
    """
    groups: dict[str, list[str]] = defaultdict(list)
    for why in reasons:
        groups[_MANY.sub("…", why)].append(why)
    told = {
        (given[0] if len(set(given)) == 1 else pattern): len(given)
        for pattern, given in groups.items()
    }
    most = sorted(told.items(), key=lambda item: (-item[1], item[0]))
    return dict(most[:SHOWN_REASONS])


def _view(send: Send, put_off: Mapping[str, str]) -> RoundView:
    surplus = list(send.surplus.values())
    without = [a for a in send.answers.values() if a.outcome != "done"]
    whys = [a.why or f"{a.outcome} without a reason" for a in without]
    return RoundView(
        number=send.ordinal,
        kind="train" if send.trains else "evaluate",
        named=send.named,
        asked=len(send.tasks),
        wanted=send.wanted,
        answered=send.good,
        without=len(send.answers) - send.good,
        open=0 if send.closed else len(send.tasks) - len(send.answers),
        late=surplus.count("late"),
        again=surplus.count("again"),
        deadline_ms=None if send.closed else send.deadline_ms,
        reasons=grouped([*whys, *send.outliers.values()]),
        put_off=grouped(put_off[t] for t in send.by_name if t in put_off and not send.closed),
    )
