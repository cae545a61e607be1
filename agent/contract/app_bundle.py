"""An app of the operator's as it is signed: one JSON document with every file in it.

Rule 1: no archive format: a name is a path of plain parts, a file is its bytes, and nothing
        else (links, modes, owners) can be said. The same sources give the same bytes.
Rule 2: limits are checked before anything is written anywhere.
Rule 3: dependencies are told, never installed; a device compares them with what it has.

The signed target is ``apps/<name>/<number>.json``; its digest is the app's.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Final

from msgspec import Meta, Struct, field

from agent.contract.codec import Versioned, decode, encode
from agent.contract.limits import MAX_MANIFEST_BYTES
from agent.contract.manifest import Name
from agent.errors import ContractError, MalformedError
from agent.refusals import BadAppError

MAX_APP_FILES: Final = 256
MAX_APP_BYTES: Final = 1024 * 1024
"""All files of one app together."""
MAX_DEPTH: Final = 8
MAX_DEPENDENCIES: Final = 64
APP_TARGET_PATTERN: Final = r"^apps/[a-z0-9][a-z0-9-]{1,62}/[1-9][0-9]{0,8}\.json$(?!\n)"
_PART: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")
_REQUIREMENT: Final = re.compile(
    r"([A-Za-z0-9][A-Za-z0-9._-]{0,99})\s*(?:\[[A-Za-z0-9._,\s-]{0,200}\])?\s*\(?([^()]{0,200})\)?"
)
_CLAUSE: Final = re.compile(r"(===|~=|==|!=|<=|>=|<|>)\s*([0-9][0-9A-Za-z.!+*-]{0,60})")
_VERSION: Final = re.compile(
    r"v?(?:\d+!)?(\d{1,9}(?:\.\d{1,9}){0,9})(?:[._-]?(a|b|rc|alpha|beta|dev|pre|c)[._-]?(\d*))?"
    r"(?:[._-]?post\d*)?(?:\.dev\d+)?(?:\+[A-Za-z0-9._-]+)?"
)

AppTarget = Annotated[str, Meta(pattern=APP_TARGET_PATTERN)]
Component = Annotated[
    str,
    Meta(pattern=r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*){0,7}:[A-Za-z_]\w*(\.[A-Za-z_]\w*){0,3}$(?!\n)"),
]
Setting = bool | int | float | Annotated[str, Meta(max_length=4096)]
Settings = Annotated[
    dict[Annotated[str, Meta(min_length=1, max_length=200)], Setting], Meta(max_length=256)
]
Version = Annotated[
    str, Meta(min_length=1, max_length=64, pattern=r"^[0-9A-Za-z][0-9A-Za-z.+!-]*$")
]
Dependency = Annotated[str, Meta(min_length=1, max_length=300)]


class AppBundle(Versioned, frozen=True, kw_only=True):
    """One version of an app.

    Attributes:
        name: How operators call it.
        version: What its author calls it; for people.
        client: ``module:attribute`` of its ClientApp.
        server: The same of its ServerApp, where it has one.
        dependencies: What it declares, one distribution each.
        settings: Defaults of its run's configuration.
        files: Bytes of each file by its path.

    """

    name: Name
    version: Version
    client: Component
    server: Component | None = None
    dependencies: Annotated[tuple[Dependency, ...], Meta(max_length=MAX_DEPENDENCIES)] = ()
    settings: Settings = field(default_factory=dict)
    files: Annotated[dict[str, bytes], Meta(max_length=MAX_APP_FILES)]

    def __post_init__(self) -> None:
        total = 0
        for name, content in self.files.items():
            require_path(name)
            total += len(content)
        if total > MAX_APP_BYTES:
            raise ValueError(f"its files have {total} bytes; at most {MAX_APP_BYTES} may be")
        for dependency in self.dependencies:
            Requirement.parse(dependency)


class WantedApp(Struct, frozen=True, kw_only=True):
    """What a task in *app* mode says beside its message.

    Attributes:
        target: The signed target.
        digest: SHA-256 of its bytes.
        settings: The run's configuration, over the app's defaults.
        partition, partitions: Which of how many participants this device is.

    """

    target: AppTarget
    digest: Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$(?!\n)")]
    settings: Settings = field(default_factory=dict)
    partition: Annotated[int, Meta(ge=0, le=10**9)] = 0
    partitions: Annotated[int, Meta(ge=1, le=10**9)] = 1


@dataclass(frozen=True, slots=True)
class Requirement:
    """A distribution and the versions of it that will do.

    >>> Requirement.parse("numpy >=1.26,<2").is_met_by("1.26.4")
    True
    >>> [Requirement.parse("torch~=2.1").is_met_by(v) for v in ("2.8.0+cpu", "3.0")]
    [True, False]
    """

    name: str
    clauses: tuple[tuple[str, str], ...]

    @classmethod
    def parse(cls, text: str) -> "Requirement":
        """Read ``name[extras]>=1,<2``.

        Raises:
            ValueError: It is not one, or has a marker or an address.

        """
        if ";" in text or "@" in text:
            raise ValueError(
                f"dependency {text[:80]!r} has a marker or an address, which devices do not read"
            )
        found = _REQUIREMENT.fullmatch(text.strip())
        clauses = [c for part in (found[2] if found else "").split(",") if (c := part.strip())]
        matched = [_CLAUSE.fullmatch(clause) for clause in clauses]
        if found is None or not all(matched):
            raise ValueError(f"dependency {text[:80]!r} is not a name with versions")
        pairs = tuple((m[1], m[2]) for m in matched if m is not None)
        for sign, version in pairs:
            if not _VERSION.fullmatch(version.removesuffix(".*")) or sign == "===":
                raise ValueError(f"dependency {text[:80]!r} names no version that is understood")
        return cls(plain_name(found[1]), pairs)

    def is_met_by(self, version: str) -> bool:
        """Return whether an installed version will do; one that is not understood will not."""
        held = _VERSION.fullmatch(version)
        return held is not None and all(
            _holds(sign, version, wanted) for sign, wanted in self.clauses
        )

    def __str__(self) -> str:
        return self.name + ",".join(f"{sign}{version}" for sign, version in self.clauses)


def plain_name(name: str) -> str:
    """Return the one form of a distribution's name (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def require_path(name: str) -> None:
    """Return if a name may be a file of an app.

    Raises:
        ValueError: It leads elsewhere, or is not of plain parts.

    """
    parts = name.split("/")
    if len(parts) > MAX_DEPTH or not all(_PART.fullmatch(part) for part in parts):
        raise ValueError(f"file {name[:80]!a} has no acceptable name")


def encode_bundle(bundle: AppBundle) -> bytes:
    """Return the bytes that are signed: files in the order of their names."""
    return encode(bundle)


def decode_bundle(content: bytes) -> AppBundle:
    """Read an app.

    Raises:
        BadAppError: It is not one, or over a limit.
        UnsupportedError: It is of a newer version.

    """
    try:
        bundle = decode(AppBundle, content, limit=MAX_MANIFEST_BYTES)
    except MalformedError as why:
        raise BadAppError(f"this is not an app: {why}") from why
    module = bundle.client.partition(":")[0].replace(".", "/")
    if not {f"{module}.py", f"{module}/__init__.py"} & bundle.files.keys():
        raise BadAppError(f"app {bundle.name} has no file for its {bundle.client}")
    return bundle


def missing_of(bundle: AppBundle, installed: Mapping[str, str]) -> tuple[str, ...]:
    """Return what an app declares and an environment has not, in words.

    Args:
        bundle: The app.
        installed: Versions by plain name.

    """
    wanted = [Requirement.parse(dependency) for dependency in bundle.dependencies]
    return tuple(
        f"{need} ({f'it has {have}' if (have := installed.get(need.name)) else 'not installed'})"
        for need in wanted
        if need.name not in installed or not need.is_met_by(installed[need.name])
    )


def require_target(target: str) -> str:
    """Return ``target`` if it is the name of an app's.

    Raises:
        ContractError: It is not.

    """
    if not re.fullmatch(APP_TARGET_PATTERN, target):
        raise ContractError(f"{target[:80]!r} is not the target of an app")
    return target


def _key(version: str) -> tuple[tuple[int, ...], tuple[int, int]]:
    found = _VERSION.fullmatch(version)
    if found is None:
        raise ValueError(version)
    release = tuple(int(part) for part in found[1].split("."))
    while len(release) > 1 and release[-1] == 0:
        release = release[:-1]
    rank = {"dev": -4, "a": -3, "alpha": -3, "b": -2, "beta": -2}.get(found[2] or "", -1)
    return release, (rank, int(found[3] or 0)) if found[2] else (0, 0)


def _holds(sign: str, held: str, wanted: str) -> bool:
    if sign == "~=":
        bare = _VERSION.fullmatch(wanted)
        family = ".".join((bare[1] if bare else wanted).split(".")[:-1])
        return _holds(">=", held, wanted) and _holds("==", held, f"{family}.*")
    if wanted.endswith(".*"):
        family_parts = wanted.removesuffix(".*").split(".")
        found = _VERSION.fullmatch(held)
        parts = (found[1] if found else "").split(".")
        parts += ["0"] * (len(family_parts) - len(parts))
        alike = [int(p) for p in parts[: len(family_parts)]] == [int(p) for p in family_parts]
        return alike if sign == "==" else not alike
    mine, theirs = _key(held), _key(wanted)
    match sign:
        case "==":
            return mine == theirs
        case "!=":
            return mine != theirs
        case ">=":
            return mine >= theirs
        case "<=":
            return mine <= theirs
        case ">":
            return mine > theirs
        case _:
            return mine < theirs
