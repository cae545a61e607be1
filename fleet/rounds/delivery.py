"""How the answers of a closed round reach the Flower program: together, or one at a time.

Rule 1: by ascending node, whatever the order in which they came.
Rule 2: together they are little; what is much waits in the spool until the built-in
        program fetches it, so that neither side holds two updates. Operators' apps
        get a list of all, because that is what Flower's strategies take.
"""

from collections.abc import Callable
from typing import Final

from fleet.errors import RefusedError
from fleet.rounds.events import RunPlan
from fleet.rounds.pipe import Fetch, Fetched, Reply
from fleet.rounds.sends import Send, node_of, task_name
from fleet.rounds.state import RunState

TOGETHER_BYTES: Final = 1024 * 1024
Read = Callable[[str], bytes | None]


def replies_of(plan: RunPlan, send: Send, model_bytes: int, read: Read) -> tuple[Reply, ...]:
    """Return what the program hears of a closed send.

    Args:
        plan: Whose program it is.
        send: The send; silent devices are left out, and refused ones say why.
        model_bytes: How large an update is, about.
        read: Returns a spooled answer by its task.

    """
    own = plan.strategy is not None and not (plan.app or plan.app_folder)
    spooled = own and send.good * model_bytes > TOGETHER_BYTES
    replies = []
    for posted in sorted(send.tasks, key=lambda t: node_of(t.device)):
        answer, node = send.answers.get(posted.task), node_of(posted.device)
        if answer is None:
            continue
        why = send.outliers.get(posted.task, answer.why)
        if answer.outcome != "done" or posted.task in send.outliers:
            replies.append(Reply(node=node, why=why))
        elif spooled:
            replies.append(Reply(node=node, spooled=True))
        else:
            replies.append(Reply(node=node, content=read(posted.task), why=why))
    return tuple(replies)


def folded_of(state: RunState, send: Send, model_bytes: int, read: Read) -> tuple[Reply, ...]:
    """Return what the program of a buffered run hears of a closed send: what it folds.

    Args:
        state: Where the run is: answers to older versions count too.
        send: The send that was closed.
        model_bytes: How large an update is, about.
        read: Returns a spooled answer by its task.

    """
    spooled = len(send.folded) * model_bytes > TOGETHER_BYTES
    replies = []
    for task in send.folded:
        asked = state.find(task)
        if asked is None or task in send.outliers:
            continue
        node = node_of(asked.by_name[task].device)
        content = None if spooled else read(task)
        reply = Reply(node=node, asked=asked.ordinal, content=content, spooled=spooled)
        replies.append(reply)
    return tuple(sorted(replies, key=lambda r: (r.node, r.asked)))


def fetched(run: str, device: str | None, asked: Fetch, read: Read) -> Fetched:
    """Return one spooled reply.

    Args:
        run: Name of the run.
        device: Whose reply is asked for; None where no participant is this node.
        asked: The program's word.
        read: Returns a spooled answer by its task.

    Raises:
        RefusedError: There is none of this node to this send.

    """
    content = None if device is None else read(task_name(run, asked.ordinal, device))
    if content is None:
        raise RefusedError(
            f"the Flower program fetches a reply of node {asked.node} to send {asked.ordinal}; "
            "none is spooled"
        )
    return Fetched(ordinal=asked.ordinal, node=asked.node, content=memoryview(content))
