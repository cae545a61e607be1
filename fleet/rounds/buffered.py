"""Runs that wait for no round: answers to several versions of the model count at once.

A buffered run (FedBuff: Nguyen et al. 2022, arXiv 2106.06639) sends version after version;
a device trains on the version that it got. As soon as the buffer holds as many good
answers as it takes, of whichever version, they are folded and the next version goes out
to the devices that are free.

Rule 1: a good answer is folded once: it waits in the state's buffer, and the send that
        closes takes it out.
Rule 2: a device has one open task: while it trains on an older version it gets no newer.
Rule 3: an answer to a version more than ``MAX_STALENESS`` behind is late, and its device
        is free again.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Final

from fleet.rounds.events import Posted, RunPlan
from fleet.rounds.norms import too_long
from fleet.rounds.sends import Send, choose, draw, task_name
from fleet.rounds.state import Driving, RunState

MAX_STALENESS: Final = 10


def live_sends(state: RunState) -> tuple[Send, ...]:
    """Return the sends whose tasks may still be answered, oldest first."""
    newest = state.sends[-MAX_STALENESS - 1 :] if isinstance(state.phase, Driving) else ()
    return tuple(s for s in newest if s.open_count)


def open_tasks(state: RunState) -> Iterator[Posted]:
    """Return the tasks that may still be answered."""
    for send in live_sends(state):
        yield from send.open_tasks


def open_tasks_of(run: str, state: RunState, device: str) -> Iterator[Posted]:
    """Return the tasks that one device may still answer."""
    for send in live_sends(state):
        task = task_name(run, send.ordinal, device)
        if send.is_open(task):
            yield send.by_name[task]


def whom_to_ask(
    plan: RunPlan, state: RunState, ordinal: int, tasks: Sequence[Posted]
) -> tuple[Posted, ...]:
    """Return the tasks of a send that devices are asked for.

    Args:
        plan: Of the run; with a buffer ``clients`` train at a time.
        state: Where it is before the send; a known send asks whom it asked.
        ordinal: Of the send.
        tasks: One for each node that the program named.

    """
    if not plan.buffer:
        return choose(plan, ordinal, tasks)
    if ordinal <= len(state.sends):
        known = state.sends[ordinal - 1]
        return tuple(t for t in tasks if t.task in known.by_name)
    busy = {t.device for send in state.sends[-MAX_STALENESS:] for t in send.open_tasks}
    free = [t for t in tasks if t.device not in busy]
    return draw(plan, ordinal, free, max((plan.clients or len(tasks)) - len(busy), 0))


def is_full(plan: RunPlan, state: RunState) -> bool:
    """Return whether the send that is underway waits for nothing more."""
    if not plan.buffer:
        return state.underway is not None and state.underway.satisfied
    return len(state.buffer) >= plan.buffer or not live_sends(state)


def let_in(plan: RunPlan, state: RunState, send: Send) -> RunState:
    """Return the state with a new send; the one that is now too old stays open no longer."""
    sends = (*state.sends, send)
    old = len(sends) - MAX_STALENESS - 2
    if plan.buffer and old >= 0:
        sends = (*sends[:old], replace(sends[old], lingers=False), *sends[old + 1 :])
    return replace(state, sends=sends)


def fold(plan: RunPlan, state: RunState) -> RunState:
    """Return the state with its last send closed, and what it takes to the program."""
    last = state.sends[-1]
    if not plan.buffer:
        return replace(state, sends=(*state.sends[:-1], last.close(plan.max_norm)))
    norms, folded = {}, state.buffer[: plan.buffer]
    for task in folded:
        send = state.find(task)
        norm = None if send is None else send.answers[task].norm
        if norm is not None:
            norms[task] = norm
    outliers = {} if plan.max_norm is None else too_long(norms, plan.max_norm)
    closed = replace(last, closed=True, folded=folded, outliers=outliers)
    rest = state.buffer[plan.buffer :]
    return replace(state, sends=(*state.sends[:-1], closed), buffer=rest)


def end_all(state: RunState) -> RunState:
    """Return the state in which no task may be answered any more."""
    return replace(state, sends=tuple(replace(s, lingers=False) for s in state.sends))
