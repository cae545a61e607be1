"""Who has which windows in a simulation, and how they answer.

Rule 1: a device keeps windows of all three splits; a window never changes its split.
Rule 2: a natural split is the file's own: one device for each file, or for each value of
        the array ``device``. A Dirichlet split deals every class out in shares drawn from
        Dir(alpha): a small alpha gives each device a few classes (Hsu et al. 2019, arXiv
        1909.06335). Windows are dealt in runs, in the file's order, so that neighbours in
        time stay together.
Rule 3: tasks are done by the device's own trainer; what an attacker makes of its reply is
        the only thing that no device does.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from agent.contract.tensors import ArrayRecord, Failure, decode_message, encode_message
from agent.errors import AgentError
from agent.learn.samples import LabelledWindows, Split, load_samples
from agent.learn.trainer import Answered, answer_task
from fleet.errors import ConfigError

ATTACK_FACTOR: Final = 10.0
MAX_DEVICES: Final = 10_000
Attack = Literal["", "sign-flip"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SimulatedDevice:
    """One device: its name, its windows, and whether it lies.

    Attributes:
        samples: Its windows; after ``embedded`` of shape (n, width, 1).
        attack: ``sign-flip`` sends ten times the opposite of what it learned.

    """

    name: str
    samples: LabelledWindows
    attack: Attack = ""

    def count(self, split: Split) -> int:
        """Return how many windows of a split it has."""
        return self.samples.count(split)

    def answer(self, message: bytes, kind: str) -> Answered:
        """Do one task, whose Flower message this is, on embedded windows.

        Raises:
            ContractError, ModelError: As a device's own trainer does.

        """
        made = answer_task(message, kind, _squeezed, self.samples)
        if kind == "train" and self.attack:
            return replace(made, reply=_flipped(made.reply, message))
        return made


def read_devices(files: Sequence[Path]) -> dict[str, LabelledWindows]:
    """Return the windows of each device, by name: the natural split.

    Args:
        files: As ``[learn] samples`` of a device; with an array ``device`` (n,) of texts or
            whole numbers one file holds several devices, otherwise it is one, named after
            the file, or after its folder where files are of one name.

    Raises:
        ConfigError: A file is not one of labelled windows, or two do not fit together.

    """
    plain = len({path.name for path in files}) == len(files)
    found: dict[str, LabelledWindows] = {}
    for path in files:
        try:
            windows = load_samples(path)
        except AgentError as why:
            raise ConfigError(str(why)) from why
        names = _device_column(path, len(windows.y))
        parts = (
            {path.stem if plain else path.parent.name: windows}
            if names is None
            else {str(n): _chosen(windows, names == n) for n in np.unique(names)}
        )
        twice = sorted(found.keys() & parts.keys())
        if twice:
            raise ConfigError(f"{path}: a device named {twice[0]!r} was in an earlier file")
        found.update(parts)
    shapes = {w.x.shape[1:] for w in found.values()}
    if len(shapes) != 1:
        raise ConfigError(f"the files hold windows of different shapes: {sorted(shapes)}")
    if len(found) > MAX_DEVICES:
        raise ConfigError(f"{len(found)} devices; a simulation takes at most {MAX_DEVICES}")
    return found


def embedded(windows: LabelledWindows, embeddings: NDArray[np.float32]) -> LabelledWindows:
    """Return windows whose ``x`` (n, width, 1) is what the backbone made of them."""
    return replace(windows, x=embeddings[:, :, np.newaxis])


def deal(
    parts: Mapping[str, LabelledWindows], *, devices: int, alpha: float, seed: int
) -> dict[str, LabelledWindows]:
    """Return a Dirichlet split of all windows over so many devices, named ``device-1`` on.

    Args:
        parts: Windows by their devices; pooled in this order.
        devices: 1 to 10,000.
        alpha: Above 0; 0.1 gives each device few classes, 100 nearly equal shares.
        seed: The same seed gives the same split.

    """
    chance = np.random.default_rng(seed)
    y = np.concatenate([w.y for w in parts.values()])
    split = np.concatenate([w.split for w in parts.values()])
    x = np.concatenate([w.x for w in parts.values()])
    owner = np.empty(len(y), np.int64)
    for label in np.unique(y):
        ends = np.cumsum(chance.dirichlet(np.full(devices, alpha)))
        for part in Split:
            mine = np.flatnonzero((y == label) & (split == part))
            places = (np.arange(len(mine)) + 0.5) / max(len(mine), 1)
            owner[mine] = np.minimum(np.searchsorted(ends, places), devices - 1)
    whole = LabelledWindows(x=x, y=y, split=split)
    width = len(str(devices))
    return {f"device-{n + 1:0{width}}": _chosen(whole, owner == n) for n in range(devices)}


def _chosen(windows: LabelledWindows, mask: NDArray[np.bool_]) -> LabelledWindows:
    return LabelledWindows(x=windows.x[mask], y=windows.y[mask], split=windows.split[mask])


def _squeezed(x: NDArray[np.float32]) -> NDArray[np.float32]:
    return x[:, :, 0]


def _device_column(path: Path, count: int) -> NDArray[Any] | None:
    with np.load(path, allow_pickle=False) as members:
        if "device" not in members.files:
            return None
        try:
            column = members["device"]
        except ValueError as why:
            raise ConfigError(f"{path}: 'device' does not read: {why}") from why
    if column.shape != (count,) or column.dtype.kind not in "Uiu":
        raise ConfigError(
            f"{path}: 'device' is {column.dtype.name} of shape {column.shape}; it must be texts "
            f"or whole numbers, one for each of the {count} windows"
        )
    return np.asarray(column)


def _flipped(reply: bytes, asked: bytes) -> bytes:
    """Return the reply with ten times the opposite of what was learned."""
    message, question = decode_message(reply), decode_message(asked)
    if isinstance(message.content, Failure) or isinstance(question.content, Failure):
        return reply
    made, start = message.content["arrays"], question.content["arrays"]
    if not isinstance(made, ArrayRecord) or not isinstance(start, ArrayRecord):
        return reply
    arrays = {
        name: np.asarray(before - ATTACK_FACTOR * (made.items[name] - before), before.dtype)
        for name, before in start.items.items()
    }
    content = {**message.content, "arrays": ArrayRecord(arrays)}
    return encode_message(replace(message, content=content))
