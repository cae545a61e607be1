"""From an admitted file to a manifest and its artifacts, ready to be signed."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec

from agent.contract.manifest import (
    Artifact,
    Head,
    Lineage,
    Release,
    State,
    Variant,
    Windowing,
    describe_artifact,
    encode_release,
)
from agent.contract.sources import full_source
from agent.errors import MalformedError
from agent.infer.stateful import why_no_states
from fleet.errors import AdmissionError
from fleet.release.accelerate import Accelerator, accelerated
from fleet.release.admit import Admitted, admit, admit_onnx, runtime_of
from fleet.release.delta import Earlier, Offered, offer
from fleet.release.forms import Form, describe_form, named_apart, require_alike
from fleet.release.golden import (
    GoldenInput,
    asked_inputs,
    fit_inputs,
    golden_vectors,
    synthetic_inputs,
)

EMBEDDING, HEAD_WEIGHT, HEAD_BIAS = "embedding", "head.weight", "head.bias"
GOLDEN_TOLERANCE = 1e-3
_BATCH_OF_WINDOWS = 3  # dimensions: (1, channels, samples)


@dataclass(frozen=True, slots=True, kw_only=True)
class BuiltRelease:
    """A release before it is signed.

    Attributes:
        release: The manifest as a value.
        manifest: Its bytes, the TUF target.
        digest: SHA-256 of ``manifest``, hex.
        artifacts: Bytes by SHA-256: the model, the golden vectors, and their sources; of an
            encrypted release the sealed sources only.
        keys: Of an encrypted release, the content key of each artifact by the digest of its
            full sealed stream. Secret.

    """

    release: Release
    manifest: bytes
    digest: str
    artifacts: dict[str, bytes]
    keys: dict[str, bytes] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """What the publisher says about a release.

    Attributes:
        family, version, slot, counter: As in ``manifest.Release``.
        windowing, classes, probabilities, head: As in ``manifest.Release``; ``head`` is
            only named when the model has it (see ``find_head``).
        rollback_to: Manifest digests that devices may return to from it.
        states: Tensors that a recurrent model gives back to itself.
        accelerators: Other execution providers for the same file.
        golden_tolerance: Largest difference of a golden output; half precision needs more.
        rounds: The manager's key for federated rounds signs it.

    """

    family: str
    version: str
    slot: str
    counter: int
    windowing: Windowing | None = None
    classes: tuple[str, ...] = ()
    probabilities: str | None = None
    head: Head | None = None
    lineage: Lineage = field(default_factory=Lineage)
    rollback_to: tuple[str, ...] = ()
    states: tuple[State, ...] = ()
    accelerators: tuple[Accelerator, ...] = ()
    golden_tolerance: float = GOLDEN_TOLERANCE
    rounds: bool = False

    @property
    def target(self) -> str:
        """The name under which it is signed."""
        return f"models/{self.family}/{'rounds/' if self.rounds else ''}{self.version}.json"


def find_head(model: bytes, file: str = "the model") -> Head | None:
    """Return the trainable head by convention, or None.

    The convention: an output ``embedding`` of shape (1, width) and float32 initialisers
    ``head.weight`` (classes, width) and ``head.bias`` (classes,).

    Of a TensorFlow Lite file there is none: its constants have no names that last.

    Raises:
        AdmissionError: The file is not admissible.

    """
    if runtime_of(model, file) != "onnx":
        return None
    admitted = admit_onnx(model, name=file)
    shapes = {t.name: t.shape for t in admitted.outputs}
    weight = admitted.initialisers.get(HEAD_WEIGHT, ())
    bias = admitted.initialisers.get(HEAD_BIAS, ())
    if not weight or weight[:1] != bias or shapes.get(EMBEDDING) != (1, *weight[1:]):
        return None
    return Head(embedding=EMBEDDING, weight=HEAD_WEIGHT, bias=HEAD_BIAS, width=weight[1])


def build_release(
    model: bytes,
    placement: Placement,
    *,
    golden_inputs: Sequence[GoldenInput] | None,
    metrics: dict[str, float],
    now_ms: int,
    earlier: Sequence[Earlier] | None = None,
    encrypt: bool = False,
    file: str = "the model",
    forms: Sequence[Form] = (),
) -> BuiltRelease:
    """Admit a model, make its golden vectors and write its manifest.

    Args:
        model: ONNX or TensorFlow Lite bytes.
        placement: Its name and what belongs to it.
        golden_inputs: Inputs of the model's shape; None takes seeded ones.
        metrics: What its makers measured.
        now_ms: Wall clock, ms since 1970.
        earlier: What devices may have already, to make deltas from; None makes no
            sources at all, not even compressed ones.
        encrypt: Let nothing but sealed sources of models and golden vectors leave.
        file: How the model is called in sentences; its ending tells its kind.
        forms: The same model in other files, for other runtimes.

    Raises:
        AdmissionError: The files cannot become a release.

    """
    first = Form(content=model, file=file)
    admitted = {form: admit(form.content, name=form.file) for form in (first, *forms)}
    for form, found in admitted.items():
        _check_placement(found, placement, head=form is first)
    try:
        known = earlier if earlier is not None or not encrypt else ()
        offered = {
            form: _offer(form.content, _bases(known, found.runtime), encrypt=encrypt)
            for form, found in admitted.items()
        }
        variants = {
            form: describe_form(found, offered[form].artifact, placement.states)
            for form, found in admitted.items()
        }
        asked = asked_inputs(admitted[first].inputs, placement.states)
        inputs = fit_inputs(golden_inputs, asked) if golden_inputs else synthetic_inputs(asked)
        golden = golden_vectors(variants[first], model, inputs)
        for form in forms:
            require_alike(form, variants[form], golden, placement.golden_tolerance)
        goldens = [e.golden for e in known] if known is not None else None
        of_golden = _offer(golden, goldens, encrypt=encrypt)
        described = _describe(
            placement,
            variants=named_apart(
                (
                    *accelerated(variants[first], placement.accelerators),
                    *(variants[form] for form in forms),
                )
            ),
            golden=of_golden.artifact,
            metrics=metrics,
            now_ms=now_ms,
        )
        # the types of msgspec are checked only when a value is read back
        release = msgspec.convert(msgspec.to_builtins(described), Release)
        manifest, digest = encode_release(release)
    except (ValueError, MalformedError) as why:
        raise AdmissionError(f"the release cannot be described: {why}") from why
    everything = (*offered.values(), of_golden)
    return BuiltRelease(
        release=release,
        manifest=manifest,
        digest=digest,
        artifacts={name: content for o in everything for name, content in o.files.items()},
        keys={full_source(o.artifact).digest: o.key for o in everything if o.key is not None},
    )


def _describe(
    placement: Placement,
    *,
    variants: tuple[Variant, ...],
    golden: Artifact,
    metrics: dict[str, float],
    now_ms: int,
) -> Release:
    return Release(
        target=placement.target,
        family=placement.family,
        version=placement.version,
        slot=placement.slot,
        counter=placement.counter,
        created_ms=now_ms,
        variants=variants,
        golden=golden,
        golden_tolerance=placement.golden_tolerance,
        windowing=placement.windowing,
        classes=placement.classes,
        probabilities=placement.probabilities,
        head=placement.head,
        lineage=placement.lineage,
        rollback_to=placement.rollback_to,
        metrics=metrics,
    )


def _bases(known: Sequence[Earlier] | None, runtime: str) -> list[bytes] | None:
    if known is None:
        return None
    return [model for e in known for kind, model in e.models if kind == runtime]


def _offer(content: bytes, bases: Sequence[bytes] | None, *, encrypt: bool) -> Offered:
    if bases is None:
        artifact = describe_artifact(content)
        return Offered(artifact=artifact, files={artifact.digest: content})
    return offer(content, bases, encrypt=encrypt)


def _check_placement(admitted: Admitted, placement: Placement, *, head: bool) -> None:
    why = why_no_states(admitted.inputs, admitted.outputs, placement.states)
    if why:
        raise AdmissionError(f"these states cannot be kept: {why}")
    inputs = asked_inputs(admitted.inputs, placement.states)
    if not inputs:
        raise AdmissionError("every input is a state, so nothing is left to ask the model with")
    kept = {state.output for state in placement.states}
    outputs = {t.name: t.shape for t in admitted.outputs if t.name not in kept}
    window = placement.windowing
    if window is not None:
        wanted = (len(window.channels), window.samples)
        found = inputs[0].shape
        if len(inputs) != 1 or len(found) != _BATCH_OF_WINDOWS or found[1:] != wanted:
            raise AdmissionError(
                f"windows of shape {(1, *wanted)} do not fit the model's input of shape {found}"
            )
    if placement.probabilities is not None:
        shape = outputs.get(placement.probabilities)
        if shape is None:
            raise AdmissionError(
                f"the model has no output {placement.probabilities!r}; it has {sorted(outputs)}"
            )
        if placement.classes and shape[-1:] not in ((-1,), (len(placement.classes),)):
            raise AdmissionError(
                f"{len(placement.classes)} class names do not fit output "
                f"{placement.probabilities!r} of shape {shape}"
            )
    if placement.head is not None and head:
        _check_head(admitted, placement.head, outputs)


def _check_head(admitted: Admitted, head: Head, outputs: dict[str, tuple[int, ...]]) -> None:
    weight = admitted.initialisers.get(head.weight)
    bias = admitted.initialisers.get(head.bias)
    embedding = outputs.get(head.embedding, ())
    if weight is None or bias != weight[:1] or embedding[-1:] != weight[1:]:
        raise AdmissionError(
            f"the model has no head {head.weight!r} {weight}, {head.bias!r} {bias} "
            f"on output {head.embedding!r} {embedding}"
        )
