"""A release: the small, signed document behind which the artifacts lie by digest.

Rule 1: the manifest *is* the TUF target; whoever believes its digest believes every
        artifact, because the manifest names each by SHA-256 and by a hash per chunk.
Rule 2: a variant says for which runtime, hardware and provider it is; the device
        chooses among those that fit it.
Rule 3: a release that came of federated rounds and was signed by the manager's key for them
        is called ``models/<family>/rounds/<version>.json``; that key can sign no other name.
Rule 4: ``counter`` only grows within a slot. A device goes below the counter of what it
        runs only to a digest that the *running* manifest lists in ``rollback_to``,
        which was signed offline together with it.
"""

from hashlib import blake2b, sha256
from typing import Annotated

from msgspec import Meta, Struct, field

from agent.contract.codec import Versioned, decode, encode
from agent.contract.limits import (
    CHUNK_BYTES,
    CHUNK_HASH_BYTES,
    DIGEST_PATTERN,
    MAX_ARTIFACT_BYTES,
    MAX_MANIFEST_BYTES,
    MAX_SOURCES,
    NAME_PATTERN,
    TARGET_PATTERN,
)
from agent.errors import MalformedError
from agent.refusals import WrongChunkError

Digest = Annotated[str, Meta(pattern=DIGEST_PATTERN)]
Name = Annotated[str, Meta(pattern=NAME_PATTERN)]
Target = Annotated[str, Meta(pattern=TARGET_PATTERN, max_length=200)]
Text = Annotated[str, Meta(max_length=500)]
Label = Annotated[str, Meta(min_length=1, max_length=80)]


class Artifact(Struct, frozen=True, kw_only=True):
    """Bytes behind a release.

    Attributes:
        digest: SHA-256 of the whole, hex.
        size: Bytes.
        chunk_size: Bytes of every chunk but the last.
        chunks: The BLAKE2b-128 hashes of the chunks in order, hex, joined. Empty where the
            bytes never travel as they are, because the release is encrypted.
        sources: Smaller files from which the same bytes can be made; none need be used. Of
            an encrypted release they are the sealed streams, and one of them must be.

    """

    digest: Digest
    size: Annotated[int, Meta(ge=1, le=MAX_ARTIFACT_BYTES)]
    chunk_size: Annotated[int, Meta(ge=1024, le=CHUNK_BYTES)] = CHUNK_BYTES
    chunks: Annotated[str, Meta(pattern=r"^[0-9a-f]*$(?!\n)")]
    sources: Annotated[tuple["Source", ...], Meta(max_length=MAX_SOURCES)] = ()

    def __post_init__(self) -> None:
        if not self.chunks and any(source.base is None for source in self.sources):
            return
        if len(self.chunks) != 2 * CHUNK_HASH_BYTES * self.count:
            raise ValueError(f"artifact {self.digest[:16]} lists not one hash for each chunk")

    @property
    def encrypted(self) -> bool:
        """Whether only a sealed stream of it travels, which takes its key to open."""
        return not self.chunks

    @property
    def count(self) -> int:
        """How many chunks there are."""
        return -(-self.size // self.chunk_size)

    def check_chunk(self, index: int, content: bytes) -> bytes:
        """Return ``content`` if it is chunk ``index``.

        Raises:
            CorruptError: Wrong index, length or hash.

        """
        if not 0 <= index < self.count:
            raise WrongChunkError(f"artifact {self.digest[:16]} has no chunk {index}")
        wanted = min(self.chunk_size, self.size - index * self.chunk_size)
        at = index * 2 * CHUNK_HASH_BYTES
        if len(content) != wanted or _hash(content) != self.chunks[at : at + 2 * CHUNK_HASH_BYTES]:
            raise WrongChunkError(
                f"chunk {index} of artifact {self.digest[:16]} is not the signed one"
            )
        return content


class Source(Artifact, frozen=True, kw_only=True):
    """Fewer bytes from which an artifact can be made; the digest of the result decides.

    ``full-zstd`` is one zstd frame (RFC 8878) of the artifact; ``patch-zstd`` one with the
    base as its raw dictionary; ``subtract-zstd`` one of artifact minus base, byte by byte
    modulo 256, what is longer than the base unchanged. ``sealed-`` before one of these, or
    before ``full``, is a sealed stream of it (``contract.sealing``).

    Attributes:
        kind: How; a device leaves a kind that it does not know alone.
        base: SHA-256 of the artifact that must be at hand, or None.

    """

    kind: Name
    base: Digest | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.sources:
            raise ValueError(f"source {self.digest[:16]} has sources itself")


def describe_artifact(content: bytes, chunk_size: int = CHUNK_BYTES) -> Artifact:
    """Return the manifest entry of some bytes."""
    starts = range(0, len(content), chunk_size)
    return Artifact(
        digest=sha256(content).hexdigest(),
        size=len(content),
        chunk_size=chunk_size,
        chunks="".join(_hash(content[at : at + chunk_size]) for at in starts),
    )


def _hash(content: bytes) -> str:
    return blake2b(content, digest_size=CHUNK_HASH_BYTES).hexdigest()


class Tensor(Struct, frozen=True, kw_only=True):
    """One input or output: name, numpy dtype name, and shape (-1 is free)."""

    name: Label
    dtype: Label
    shape: tuple[Annotated[int, Meta(ge=-1, le=2**31)], ...]


class State(Struct, frozen=True, kw_only=True):
    """A tensor that a recurrent model gives back to itself: an output that is its next input."""

    input: Label
    output: Label


class Option(Struct, frozen=True, kw_only=True):
    """How an execution provider is to run a variant; a value names no path of a device.

    Attributes:
        value: ``{cache}`` in it is the folder in which the device keeps what was compiled.

    """

    provider: Label
    name: Label
    value: Annotated[str, Meta(max_length=200, pattern=r"^[^/\\\x00-\x1f]*$(?!\n)")]


class Variant(Struct, frozen=True, kw_only=True):
    """One way to run the release.

    Attributes:
        runtime: ``onnx`` or ``tflite``.
        hardware: Names a device must have one of; empty fits every device.
        inputs, outputs: Everything that the file takes and gives, states among them.
        providers: Execution providers in order of preference.
        states: What of them the device keeps from one call to the next; it begins as zeros.
        options: Of the providers.

    """

    name: Name
    runtime: Annotated[str, Meta(pattern=r"^(onnx|tflite)$(?!\n)")]
    model: Artifact
    inputs: Annotated[tuple[Tensor, ...], Meta(min_length=1, max_length=64)]
    outputs: Annotated[tuple[Tensor, ...], Meta(min_length=1, max_length=64)]
    hardware: tuple[Name, ...] = ()
    providers: tuple[Label, ...] = ("CPUExecutionProvider",)
    states: Annotated[tuple[State, ...], Meta(max_length=32)] = ()
    options: Annotated[tuple[Option, ...], Meta(max_length=64)] = ()

    @property
    def options_by_provider(self) -> dict[str, dict[str, str]]:
        """Return the options as a runtime takes them."""
        found: dict[str, dict[str, str]] = {}
        for option in self.options:
            found.setdefault(option.provider, {})[option.name] = option.value
        return found

    def __post_init__(self) -> None:
        for side, tensors, kept in (
            ("input", self.inputs, [state.input for state in self.states]),
            ("output", self.outputs, [state.output for state in self.states]),
        ):
            known = {tensor.name for tensor in tensors}
            if kept and not (len(set(kept)) == len(kept) and set(kept) < known):
                raise ValueError(f"states of variant {self.name} leave no {side} or name no {side}")


class Windowing(Struct, frozen=True, kw_only=True):
    """How a stream of samples becomes model inputs of shape (1, channels, samples)."""

    channels: Annotated[tuple[Label, ...], Meta(min_length=1, max_length=256)]
    samples: Annotated[int, Meta(ge=1, le=2**20)]
    hop: Annotated[int, Meta(ge=1, le=2**20)]
    rate_hz: Annotated[float, Meta(gt=0, le=1e9)]


class Head(Struct, frozen=True, kw_only=True):
    """The last, trainable layer: ``probabilities = softmax(embedding @ weight.T + bias)``.

    Attributes:
        embedding: Name of the output that holds the embedding, shape (1, width).
        weight: Name of the float32 initialiser of shape (classes, width).
        bias: Name of the float32 initialiser of shape (classes,).
        width: Length of the embedding.

    """

    embedding: Label
    weight: Label
    bias: Label
    width: Annotated[int, Meta(ge=1, le=65536)]


class Lineage(Struct, frozen=True, kw_only=True):
    """Where a release comes from.

    Attributes:
        strategy: How the updates of the run became one model; "" where nobody says.
        seed: Of every random choice of the run.

    """

    parents: tuple[Digest, ...] = ()
    run: Name | None = None
    rounds: Annotated[int, Meta(ge=0, le=10**6)] = 0
    cohort: tuple[Name, ...] = ()
    note: Text = ""
    strategy: Text = ""
    seed: Annotated[int, Meta(ge=0, le=2**32 - 1)] | None = None


class Release(Versioned, frozen=True, kw_only=True):
    """What is signed offline, assigned by the director and run by devices.

    Attributes:
        target: TUF target name, ``models/<family>/<version>.json``, or with ``rounds/``
            before the version.
        family, version, slot: Its name in the fleet, and the place it takes on a device.
        counter: Grows with every release of the slot.
        created_ms: Wall clock at publication, ms since 1970.
        classes: Names of the outputs of ``probabilities``, in order; empty for others.
        probabilities: Name of the output that holds class probabilities, if any.
        golden: An ``.npz`` of inputs and outputs that every variant must reproduce.
        golden_tolerance: Largest absolute difference allowed.
        rollback_to: Manifest digests a device may return to from this release.
        metrics: What its makers measured, by name.

    """

    target: Target
    family: Name
    version: Name
    slot: Name
    counter: Annotated[int, Meta(ge=1, le=2**53)]
    created_ms: Annotated[int, Meta(ge=0, le=2**53)]
    variants: Annotated[tuple[Variant, ...], Meta(min_length=1, max_length=32)]
    golden: Artifact
    golden_tolerance: Annotated[float, Meta(gt=0, le=1e6)] = 1e-3
    windowing: Windowing | None = None
    classes: Annotated[tuple[Label, ...], Meta(max_length=4096)] = ()
    probabilities: Label | None = None
    head: Head | None = None
    lineage: Lineage = Lineage()
    rollback_to: Annotated[tuple[Digest, ...], Meta(max_length=64)] = ()
    metrics: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        names = (f"models/{self.family}/{part}{self.version}.json" for part in ("", "rounds/"))
        if self.target not in names:
            raise ValueError(f"target {self.target!r} does not name {self.family} {self.version}")

    @property
    def of_rounds(self) -> bool:
        """Whether the manager's key for federated rounds may have signed it."""
        return self.target.startswith(f"models/{self.family}/rounds/")

    @property
    def artifacts(self) -> tuple[Artifact, ...]:
        """Everything that lies behind the manifest, each digest once."""
        found = {a.digest: a for a in (*(v.model for v in self.variants), self.golden)}
        return tuple(found.values())

    @property
    def files(self) -> tuple[Artifact, ...]:
        """Every artifact and each of its sources: what a manager keeps for devices.

        Of an encrypted artifact it keeps the sealed streams only.
        """
        found = {f.digest: f for a in self.artifacts for f in (*a.sources, a) if f.chunks}
        return tuple(found.values())


def decode_release(manifest: bytes) -> Release:
    """Read manifest bytes whose digest is already believed.

    Raises:
        MalformedError: Not a manifest, or over the limit.
        UnsupportedError: A manifest version that this program does not know.

    """
    return decode(Release, manifest, limit=MAX_MANIFEST_BYTES)


def encode_release(release: Release) -> tuple[bytes, str]:
    """Return the manifest bytes and their SHA-256 (hex).

    Raises:
        MalformedError: The manifest would be over the limit.

    """
    manifest = encode(release)
    if len(manifest) > MAX_MANIFEST_BYTES:
        raise MalformedError(f"manifest of {len(manifest)} bytes is over {MAX_MANIFEST_BYTES}")
    return manifest, sha256(manifest).hexdigest()
