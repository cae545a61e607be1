"""The release engineer's desk: build a release, sign it offline, hand it in.

Runs where the offline keys are, which is not the manager. In a development fleet both
are the same folder.

A model is described by a TOML or JSON file beside it (``motion.onnx`` or ``motion.tflite`` →
``motion.toml``)::

    family = "motion"                  # required; letters, digits, hyphens
    slot = "motion"                    # default: the family
    classes = ["walk", "sit"]          # names of the probabilities, in order
    probabilities = "probabilities"    # output that holds them
    golden_inputs = "golden.npz"       # arrays (n, …) by input name; default: seeded inputs
    states = { h_in = "h_out" }        # recurrent: outputs that are the next inputs
    metrics = { accuracy = 0.86 }
    golden_tolerance = 0.001           # half precision and accelerators may need 0.02
    [windowing]
    channels = ["ax", "ay", "az"]
    samples = 128
    hop = 64
    rate_hz = 50.0
    [[accelerators]]                   # tried before the plain variant, see external-runtimes.md
    name = "tensorrt"
    providers = ["TensorrtExecutionProvider", "CUDAExecutionProvider"]
    options.TensorrtExecutionProvider = { trt_fp16_enable = "1" }
"""

import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
from msgspec import Meta, Struct, field
from numpy.typing import NDArray
from securesystemslib.signer import Signer
from tuf.api.metadata import Root, Targets

from agent.contract.manifest import Label, Lineage, Name, State, Windowing, decode_release
from fleet.errors import RefusedError
from fleet.release.accelerate import Accelerator, accelerators_of
from fleet.release.admit import runtime_of
from fleet.release.build import GOLDEN_TOLERANCE, BuiltRelease, Placement, build_release, find_head
from fleet.release.candidate import candidate_lineage
from fleet.release.delta import Earlier
from fleet.release.forms import Form
from fleet.release.golden import golden_inputs
from fleet.release.trial import require_survivable
from fleet.service.views import CandidateView, TargetsView
from fleet.service.wishes import Publication
from fleet.signing.metadata import (
    delegated_role,
    first_targets,
    next_targets,
    parse,
    verify,
    verify_delegated,
)

MAX_GOLDEN_INPUTS = 64


class Description(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a model file cannot say of itself."""

    family: Name
    slot: Name | None = None
    classes: tuple[Label, ...] = ()
    probabilities: Label | None = None
    golden_inputs: Annotated[str, Meta(max_length=1000)] | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    windowing: Windowing | None = None
    states: dict[Label, Label] = field(default_factory=dict)
    accelerators: Annotated[tuple[Accelerator, ...], Meta(max_length=16)] = ()
    golden_tolerance: Annotated[float, Meta(gt=0, le=1e6)] = GOLDEN_TOLERANCE


@dataclass(frozen=True, slots=True, kw_only=True)
class Described:
    """A model with everything that its release needs.

    Attributes:
        file: How the model is called; its ending tells its kind.
        forms: The same model in other files, for other runtimes.

    """

    model: bytes
    description: Description
    golden_inputs: tuple[dict[str, NDArray[Any]], ...] | None
    lineage: Lineage
    file: str = "the model"
    forms: tuple[Form, ...] = ()

    @property
    def slot(self) -> str:
        """The place it takes on a device."""
        return self.description.slot or self.description.family


def read_described(
    model: Path, description: Path | None = None, variants: Sequence[Path] = ()
) -> Described:
    """Read a model, its description, and its ``variants``: the same in other files.

    Raises:
        RefusedError: A file is missing, or the description is not as above.

    """
    content = _read(model)
    path = description or _beside(model)
    text = _read(path)
    try:
        table = json.loads(text) if path.suffix == ".json" else tomllib.loads(text.decode())
        described = msgspec.convert(table, Description)
    except (ValueError, msgspec.ValidationError) as why:
        raise RefusedError(f"{path} does not describe a model: {why}") from why
    golden = _golden(path.parent / described.golden_inputs) if described.golden_inputs else None
    return Described(
        model=content,
        description=described,
        golden_inputs=golden,
        lineage=Lineage(),
        file=model.name,
        forms=tuple(Form(content=_read(path), file=path.name) for path in variants),
    )


def describe_candidate(candidate: CandidateView, note: str = "") -> Described:
    """Return the model that a federated run offers, described like the release it grew from.

    Args:
        candidate: What the manager made of the run.
        note: What its lineage says beside run, rounds, cohort and parent.

    """
    parent = decode_release(candidate.parent_manifest)
    return Described(
        model=candidate.model,
        description=Description(
            family=parent.family,
            slot=parent.slot,
            classes=parent.classes,
            probabilities=parent.probabilities,
            windowing=parent.windowing,
            states={state.input: state.output for state in parent.variants[0].states},
            accelerators=accelerators_of(parent),
            golden_tolerance=parent.golden_tolerance,
        ),
        golden_inputs=golden_inputs(candidate.parent_golden),
        lineage=candidate_lineage(
            candidate.parent,
            candidate.run,
            candidate.rounds,
            candidate.cohort,
            note,
            strategy=candidate.strategy,
            seed=candidate.seed,
        ),
    )


def sign_release(
    described: Described,
    targets: TargetsView,
    signers: Sequence[Signer],
    *,
    version: str | None,
    earlier: Sequence[Earlier] = (),
    encrypt: bool | None = None,
    rounds: bool = False,
    now: datetime | None = None,
) -> tuple[BuiltRelease, Publication]:
    """Build a release and sign the targets metadata that holds it.

    Args:
        described: The model.
        targets: What is in force.
        signers: Keys of the role that the family belongs to: targets, or its owners'.
        version: Its name within the family; None takes ``v`` and the counter.
        earlier: What devices may have already; deltas are made from it.
        encrypt: Let only the devices that it is assigned to read it; None does as the slot's
            newest release did.
        rounds: The signers are the manager's key for federated rounds.
        now: Aware datetime; None is the wall clock.

    Raises:
        AdmissionError: The model cannot become a release.
        SigningError: The metadata in force cannot be built upon, or these keys are not
            those that must sign it.

    """
    now = now or datetime.now(UTC)
    counter = targets.next_counters.get(described.slot, 1)
    text = described.description
    require_safe(described)
    built = build_release(
        described.model,
        Placement(
            family=text.family,
            version=version or f"v{counter}",
            slot=described.slot,
            counter=counter,
            windowing=text.windowing,
            classes=text.classes,
            probabilities=text.probabilities,
            head=find_head(described.model, described.file),
            lineage=described.lineage,
            rollback_to=targets.in_use.get(described.slot, ()),
            states=tuple(State(input=name, output=out) for name, out in text.states.items()),
            accelerators=text.accelerators,
            golden_tolerance=text.golden_tolerance,
            rounds=rounds,
        ),
        golden_inputs=described.golden_inputs,
        metrics=text.metrics,
        now_ms=int(now.timestamp() * 1000),
        earlier=earlier,
        encrypt=is_encrypted(described, targets, encrypt),
        file=described.file,
        forms=described.forms,
    )
    role, signed = _sign_metadata(targets, {built.release.target: built.manifest}, signers, now=now)
    publication = Publication(targets=signed, manifest=built.manifest, role=role, keys=built.keys)
    return built, publication


def require_safe(described: Described) -> None:
    """Return if none of the files kills who loads it; only then are they loaded here.

    Raises:
        AdmissionError: One does.

    """
    for form in (Form(content=described.model, file=described.file), *described.forms):
        if runtime_of(form.content, form.file) == "tflite":
            require_survivable(form.content, name=form.file)


def is_encrypted(described: Described, targets: TargetsView, wish: bool | None) -> bool:  # noqa: FBT001 - what the option says, or nothing
    """Return whether a release is to be encrypted; unsaid, as the slot's newest one is."""
    return described.slot in targets.encrypted if wish is None else wish


def _sign_metadata(
    held: TargetsView, additions: Mapping[str, bytes], signers: Sequence[Signer], *, now: datetime
) -> tuple[str, bytes]:
    """Return the role that has to name these targets, and its next metadata."""
    root = parse(Root, held.root).signed
    top = verify(root, Targets, held.targets)
    role = next((r for name in additions if (r := delegated_role(top, name))), "targets")
    if role == "targets" or role in held.delegated:
        current = held.targets if role == "targets" else held.delegated[role]
        if role != "targets":
            verify_delegated(top, role, current)
        signed = next_targets(current, additions=additions, removals=(), signers=signers, now=now)
    else:
        version = held.versions.get(role, 0) + 1
        signed = first_targets(additions, signers, now, version)
    if role == "targets":
        verify(root, Targets, signed)
    else:
        verify_delegated(top, role, signed)
    return role, signed


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as why:
        raise RefusedError(f"{path} cannot be read: {why.strerror or why}") from why


def _beside(model: Path) -> Path:
    found = [p for p in (model.with_suffix(".toml"), model.with_suffix(".json")) if p.exists()]
    if not found:
        raise RefusedError(
            f"{model.with_suffix('.toml')} is missing: it describes the model; "
            "'fieldfare model publish --help' shows what belongs into it"
        )
    return found[0]


def _golden(path: Path) -> tuple[dict[str, NDArray[Any]], ...]:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            named = {name: np.asarray(arrays[name]) for name in arrays.files}
    except (OSError, ValueError, KeyError) as why:
        raise RefusedError(f"{path} does not hold golden inputs: {why}") from why
    count = min((len(array) for array in named.values()), default=0)
    if not count:
        raise RefusedError(f"{path} holds no golden inputs")
    return tuple(
        {name: array[i : i + 1] for name, array in named.items()}
        for i in range(min(count, MAX_GOLDEN_INPUTS))
    )
