"""Tasks on their way to devices: one after another, no faster than they may go.

Rule 1: ten thousand devices that are asked at once answer at once; so offers leave as
        the manager's pace lets them, and what waits is offered at a later tick.
Rule 2: a task waits in one place; what nobody wants any more is dropped, not offered.
Rule 3: a device that puts a task off is asked again after a while, also when the clock
        was put back meanwhile.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

OFFER_AGAIN_MS = 5_000


@dataclass(frozen=True, slots=True)
class _PutOff:
    device: str
    until_ms: int
    why: str


class Offering:
    """What is to be offered, and what was put off.

    Args:
        may_go: Whether one more offer may leave at this time, ms since 1970.

    """

    def __init__(self, may_go: Callable[[int], bool]) -> None:
        self._may_go = may_go
        self._waiting: OrderedDict[str, str] = OrderedDict()
        self._put_off: dict[str, _PutOff] = {}

    @property
    def put_off(self) -> Mapping[str, str]:
        """Why a device wants a task later, by task."""
        return {task: off.why for task, off in self._put_off.items()}

    @property
    def is_empty(self) -> bool:
        """Whether nothing waits to be offered, now or later."""
        return not self._waiting and not self._put_off

    def add(self, tasks: Iterable[tuple[str, str]]) -> None:
        """Let tasks be offered, each to its device, in this order."""
        self._waiting.update(tasks)

    def later(self, task: str, device: str, now_ms: int, why: str) -> None:
        """Let a task be offered again after a while."""
        self._put_off[task] = _PutOff(device, now_ms + OFFER_AGAIN_MS, why)

    def settle(self, task: str) -> None:
        """Forget a task that was answered."""
        self._waiting.pop(task, None)
        self._put_off.pop(task, None)

    def clear(self) -> None:
        """Forget every task."""
        self._waiting.clear()
        self._put_off.clear()

    def ready(self, now_ms: int, wanted: Callable[[str, str], bool]) -> Iterator[tuple[str, str]]:
        """Return the tasks and devices whose offers leave now.

        Args:
            now_ms: Wall clock.
            wanted: Whether a task may still be answered by a device.

        """
        soon = range(now_ms + 1, now_ms + OFFER_AGAIN_MS + 1)
        due = [task for task, off in self._put_off.items() if off.until_ms not in soon]
        self._waiting.update((task, self._put_off.pop(task).device) for task in due)
        while self._waiting:
            task, device = next(iter(self._waiting.items()))
            if wanted(task, device) and not self._may_go(now_ms):
                return
            del self._waiting[task]
            if wanted(task, device):
                yield task, device
