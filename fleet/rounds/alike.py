"""One reply of other names costs its device the reply, where Flower would end the run.

Flower's strategies add up records by their names and raise where one reply has others. A
reply is looked at alone before (``screen``); here those of one round are compared.

Rule 1: what most replies hold is what is asked for; of as many, what the lowest node sent.
Rule 2: only strategies that would raise are spared: one that takes any records gets them.
"""

from collections import Counter
from collections.abc import Iterable
from typing import Any

from flwr.app import Error, Message, RecordDict
from flwr.serverapp.strategy import FedAvg

ODD_REPLY_CODE = 2


class Alike:
    """While it is entered, Flower's strategies see replies of one form, the others as errors."""

    def __enter__(self) -> None:
        self._original = original = FedAvg._check_and_log_replies  # noqa: SLF001 -- what raises

        def check(
            strategy: FedAvg,
            replies: Iterable[Message],
            is_train: bool,  # noqa: FBT001 -- as in Flower, and the next
            validate: bool = True,  # noqa: FBT001, FBT002
        ) -> Any:
            kept = alike(replies, is_train=is_train) if validate else replies
            return original(strategy, kept, is_train, validate)

        FedAvg._check_and_log_replies = check  # noqa: SLF001

    def __exit__(self, *_: object) -> None:
        FedAvg._check_and_log_replies = self._original  # noqa: SLF001


def alike(replies: Iterable[Message], *, is_train: bool) -> list[Message]:
    """Return all replies, those of another form than most as errors.

    Args:
        replies: Of one round, by ascending node.
        is_train: Whether their arrays are added up as well as their metrics.

    """
    found = list(replies)
    forms = {i: _form(m.content, is_train) for i, m in enumerate(found) if not m.has_error()}
    if len(set(forms.values())) < 2:  # noqa: PLR2004 -- all are alike
        return found
    usual, count = Counter(forms.values()).most_common(1)[0]
    why = f"it holds other records or metrics than {count} of {len(forms)} replies of its round"
    return [
        Message(metadata=m.metadata, error=Error(ODD_REPLY_CODE, why))
        if forms.get(i, usual) != usual
        else m
        for i, m in enumerate(found)
    ]


def _form(content: RecordDict, is_train: bool) -> tuple[object, ...]:  # noqa: FBT001 -- one caller
    arrays = [(name, *sorted(r)) for name, r in content.array_records.items()] if is_train else []
    metrics = [
        (name, *sorted((k, len(v) if isinstance(v, list) else -1) for k, v in r.items()))
        for name, r in content.metric_records.items()
    ]
    return (*sorted(arrays), *sorted(metrics))
