"""From a method and a path to what is wanted; pure.

The paths are those of the Open Inference Protocol version 2, and of Triton's extensions that
its public client asks for: model configuration, statistics and the repository's index.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Final
from urllib.parse import unquote


@dataclass(frozen=True, slots=True)
class ServerLive:
    """Whether this server answers at all."""


@dataclass(frozen=True, slots=True)
class ServerReady:
    """Whether every model answers."""


@dataclass(frozen=True, slots=True)
class ServerMetadata:
    """Who this is."""


@dataclass(frozen=True, slots=True)
class RepositoryIndex:
    """Which models there are."""


@dataclass(frozen=True, slots=True)
class AllStatistics:
    """How often every model was asked."""


@dataclass(frozen=True, slots=True)
class ModelReady:
    """Whether one model answers."""

    model: str
    version: str


@dataclass(frozen=True, slots=True)
class ModelMetadata:
    """What one model takes and gives."""

    model: str
    version: str


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """The same in Triton's words."""

    model: str
    version: str


@dataclass(frozen=True, slots=True)
class ModelStatistics:
    """How often one model was asked."""

    model: str
    version: str


@dataclass(frozen=True, slots=True)
class Infer:
    """Ask one model."""

    model: str
    version: str


@dataclass(frozen=True, slots=True)
class Act:
    """Something else that is done with one model: ``feedback``."""

    model: str
    action: str


@dataclass(frozen=True, slots=True)
class Nowhere:
    """There is no such path."""

    path: str


@dataclass(frozen=True, slots=True)
class WrongMethod:
    """There is such a path, for another method."""

    allowed: str


OfModel = ModelReady | ModelMetadata | ModelConfig | ModelStatistics
Route = (
    ServerLive
    | ServerReady
    | ServerMetadata
    | RepositoryIndex
    | AllStatistics
    | OfModel
    | Infer
    | Act
    | Nowhere
    | WrongMethod
)

_SERVER: Final[dict[tuple[str, ...], tuple[str, Route]]] = {
    (): ("GET", ServerMetadata()),
    ("health", "live"): ("GET", ServerLive()),
    ("health", "ready"): ("GET", ServerReady()),
    ("models", "stats"): ("GET", AllStatistics()),
    ("repository", "index"): ("POST", RepositoryIndex()),
}
_MODEL: Final[dict[str, tuple[str, Callable[[str, str], Route]]]] = {
    "": ("GET", ModelMetadata),
    "ready": ("GET", ModelReady),
    "config": ("GET", ModelConfig),
    "stats": ("GET", ModelStatistics),
    "infer": ("POST", Infer),
}


@lru_cache(maxsize=256)
def find(method: bytes, target: bytes, actions: frozenset[str]) -> Route:
    """Return what a request line asks for; the query is not looked at.

    Args:
        method: As it came.
        target: As it came.
        actions: Names of what else can be done with a model.

    """
    path = target.split(b"?", 1)[0].decode("ascii", "replace")
    first, *parts = (unquote(part, errors="replace") for part in path.strip("/").split("/"))
    if first != "v2":
        return Nowhere(path[:200])
    found = _SERVER.get(tuple(parts)) or _of_model(parts, actions)
    if found is None:
        return Nowhere(path[:200])
    wanted, route = found
    return route if method.decode("ascii", "replace") == wanted else WrongMethod(wanted)


def _of_model(parts: list[str], actions: frozenset[str]) -> tuple[str, Route] | None:
    match parts:
        case ["models", model, "versions", version, *rest] if model and version:
            pass
        case ["models", model, *rest] if model:
            version = ""
        case _:
            return None
    if len(rest) > 1:
        return None
    last = rest[0] if rest else ""
    if last in actions and not version:
        return "POST", Act(model, last)
    if last not in _MODEL:
        return None
    method, kind = _MODEL[last]
    return method, kind(model, version)
