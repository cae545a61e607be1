"""A disk that loses power in the middle of its n-th operation."""

from pathlib import Path

from agent.disk import Disk
from tests.power_cuts import STAGE, Operation, area_of_state


class PowerCutError(BaseException):
    """The lights went out. Not an ``Exception``: no code under test may survive it."""


class FaultyDisk(Disk):
    """Works ``good`` times; the next write is torn, the next rename or removal lost.

    What was patched and not synced is lost with the power: zeros are read instead.
    ``log`` lists every durable operation that was begun, in order.
    """

    def __init__(self, root: Path, good: int = 10**9) -> None:
        super().__init__(root)
        self.good = good
        self.log: list[Operation] = []
        self._slot_area = STAGE
        self._unsynced: dict[str, list[tuple[int, int]]] = {}

    @property
    def used(self) -> int:
        return len(self.log)

    def write(self, name: str, content: bytes) -> None:
        if name.startswith("slots/"):
            self._slot_area = area_of_state(content)
        if self._power_fails(f"write {name}"):
            self._make_parent(name)
            self.path(name).write_bytes(content[: len(content) // 2])
            raise PowerCutError
        super().write(name, content)

    def rename(self, old: str, new: str) -> None:
        if self._power_fails(f"rename {new}"):
            raise PowerCutError
        super().rename(old, new)
        self._unsynced[new] = self._unsynced.pop(old, [])

    def append(self, name: str, content: bytes) -> None:
        if self._power_fails(f"append {name}"):
            self._make_parent(name)
            with self.path(name).open("ab") as file:
                file.write(content[: len(content) // 2])
            raise PowerCutError
        super().append(name, content)

    def patch(self, name: str, offset: int, content: bytes) -> None:
        if self._power_fails(f"patch {name}"):
            super().patch(name, offset, content[: len(content) // 2])
            raise PowerCutError
        super().patch(name, offset, content)
        self._unsynced.setdefault(name, []).append((offset, len(content)))

    def truncate(self, name: str, size_bytes: int) -> None:
        if self._power_fails(f"truncate {name}"):
            raise PowerCutError
        super().truncate(name, size_bytes)

    def sync(self, name: str) -> None:
        if self._power_fails(f"sync {name}"):
            raise PowerCutError
        super().sync(name)
        self._unsynced.pop(name, None)

    def remove(self, name: str) -> None:
        if self._power_fails(f"remove {name}"):
            raise PowerCutError
        super().remove(name)
        self._unsynced.pop(name, None)

    def _power_fails(self, operation: str) -> bool:
        what, _, name = operation.partition(" ")
        self.log.append(Operation.of(what, name, self._slot_area))
        if self.used <= self.good:
            return False
        for name, patches in self._unsynced.items():
            for offset, size in patches:
                super().patch(name, offset, bytes(size))
        self._unsynced.clear()
        return True
