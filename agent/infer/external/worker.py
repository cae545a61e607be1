"""How a worker is started, and what it says of itself before it is asked anything.

Rule 1: it is ready when ``/v2/health/ready`` says so; until then nobody but the kernel knows
        whether it compiles or hangs, so that it has its time and no more.
Rule 2: a worker that is not ready in time, or describes no model that could be meant, has
        ended when this is known.
"""

import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Final

import msgspec
from msgspec import Struct

from agent.contract.manifest import Tensor
from agent.errors import AgentError, MalformedError, RuntimeMissingError, WorkerError
from agent.infer.external.engines import Engine
from agent.infer.external.link import ExternalLink
from agent.infer.external.supervised import Program, Supervised
from agent.infer.oip.documents import ServerMetadata, read_error, read_metadata

MODEL: Final = "model"
"""What the one model of a worker is called in its addresses."""

OK: Final = 200
_LOOK_SECONDS: Final = 0.02
_SHORT_SECONDS: Final = 5.0
_END_SECONDS: Final = 5.0
_LONGEST_SOCKET_PATH: Final = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Outside:
    """How a model is run outside of the agent.

    Attributes:
        program: What is started.
        runtime: As in ``Variant.runtime``.
        providers: Execution providers in order of preference; one of them must really run it.
        options: Of each provider.
        start_seconds: Until it is ready.
        build_seconds: The same, and of the first inference, while nothing is compiled yet.
        awaits_build: Whether its first start may take that long; later ones always may.
        deadline_seconds: Of one inference.
        engine: Where it keeps what it compiles, if it does.

    """

    program: Program
    runtime: str
    providers: tuple[str, ...]
    options: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    start_seconds: float
    build_seconds: float = 0.0
    awaits_build: bool = False
    deadline_seconds: float
    engine: Engine | None = None

    @property
    def unbuilt_seconds(self) -> float:
        """How long it may take while nothing is compiled; 0 where something is."""
        unbuilt = self.engine is not None and not self.engine.built
        return self.build_seconds if unbuilt else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Described:
    """What a worker says of itself and of its model."""

    library: str
    version: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    providers: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Worker:
    """One life of the process, ready to answer."""

    process: Supervised
    link: ExternalLink
    described: Described


class _Parameters(Struct, frozen=True):
    providers: str = ""


class _Extended(Struct, frozen=True):
    """What a worker may add to the metadata of its model."""

    parameters: _Parameters = _Parameters()


def begin(
    wanted: Outside,
    model: Path,
    folder: Path,
    *,
    seconds: float,
    stopping: threading.Event,
    began: Callable[[Supervised], None],
) -> Worker:
    """Start a worker and wait until it is ready.

    Args:
        wanted: What to start.
        model: The file, by its whole path.
        folder: Private to this worker.
        seconds: How long it may take.
        stopping: Set by somebody else, ends the waiting.
        began: Is given the process as soon as there is one.

    Raises:
        ModelError: It does not take the model; ``WorkerError`` where it died or took too long.
        RuntimeMissingError: Its library or its providers do not work here.
        StoreError: There is no place for what it compiles.

    """
    path = folder / "worker.sock"
    path.unlink(missing_ok=True)
    if wanted.engine is not None:
        wanted.engine.prepare()
    process = Supervised(wanted.program, _arguments(wanted, model, path), folder)
    began(process)
    try:
        link, described = _await(wanted, process, path, seconds, stopping)
    except AgentError as why:
        crashed = process.ended and not isinstance(why, RuntimeMissingError)
        process.kill()
        process.wait(_END_SECONDS)
        if wanted.engine is not None and crashed and not stopping.is_set():
            wanted.engine.forget()
        raise
    return Worker(process=process, link=link, described=described)


def _arguments(wanted: Outside, model: Path, path: Path) -> list[str]:
    if len(str(path)) > _LONGEST_SOCKET_PATH:
        raise WorkerError(f"{path} is too long for a socket: set TMPDIR to a shorter place")
    return [
        *("--socket", str(path)),
        *("--model", str(model)),
        *("--providers", ",".join(wanted.providers)),
        *("--options", msgspec.json.encode(wanted.options).decode()),
        *("--cache", str(wanted.engine.path) if wanted.engine else ""),
    ]


def _await(
    wanted: Outside, process: Supervised, path: Path, seconds: float, stopping: threading.Event
) -> tuple[ExternalLink, Described]:
    ends = monotonic() + seconds
    while not stopping.wait(_LOOK_SECONDS):
        if process.ended:
            raise process.wait()
        if monotonic() > ends:
            break
        with suppress(OSError, MalformedError):  # nobody listens yet, or not for long
            link = ExternalLink(path)
            try:
                if link.get("/v2/health/ready", _SHORT_SECONDS).status == OK:
                    return link, _describe(wanted, link)
            except BaseException:
                link.close()
                raise
            link.close()
    raise WorkerError(f"{wanted.program.name} was not ready within {seconds:g} s")


def _describe(wanted: Outside, link: ExternalLink) -> Described:
    name = wanted.program.name
    server = link.get("/v2", _SHORT_SECONDS)
    model = link.get(f"/v2/models/{MODEL}", _SHORT_SECONDS)
    for answer in (server, model):
        if answer.status != OK:
            raise WorkerError(f"{name} does not describe its model: {read_error(answer.body)}")
    try:
        told = msgspec.json.decode(server.body, type=ServerMetadata)
        inputs, outputs = read_metadata(model.body).tensors
        extended = msgspec.json.decode(model.body, type=_Extended)
    except (MalformedError, msgspec.MsgspecError) as why:
        raise WorkerError(f"{name} does not keep to the protocol: {why}") from why
    providers = tuple(p for p in extended.parameters.providers.split(",") if p)
    if providers and not set(providers) & set(wanted.providers):
        raise RuntimeMissingError(
            f"{name} runs the model with {', '.join(providers)}; "
            f"wanted is {', '.join(wanted.providers)}"
        )
    return Described(
        library=told.name,
        version=told.version,
        inputs=inputs,
        outputs=outputs,
        providers=providers,
    )
