"""What the surfaces ask for: requests as plain values; ``views`` is what they show.

Rule 1: one type serves the API and the commands; its fields are the contract.
Rule 2: a field that nobody knows, and a value out of its bounds, is refused at the door.
"""

from typing import Annotated

from msgspec import Meta, Struct, field

from agent.contract.limits import MAX_CONTENT_KEYS
from agent.contract.manifest import Digest, Name, Text
from agent.contract.messages import Hex64, Quality
from agent.contract.rounds import Updates
from fleet.rounds.events import AnchorTo

Days = 86_400


class TokenWish(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Asks for an enrolment token; ``approval`` is auto or manual.

    ``devices`` are the public keys of the only devices that it is for; none is any device.
    ``wss`` is for devices that reach the broker over WebSocket only.
    """

    group: Name = "default"
    uses: Annotated[int, Meta(ge=1, le=100_000)] = 1
    lifetime_seconds: Annotated[int, Meta(ge=1, le=365 * Days)] = Days
    approval: Annotated[str, Meta(pattern=r"^(auto|manual)$")] = "auto"
    devices: Annotated[tuple[Hex64, ...], Meta(max_length=100_000)] = ()
    wss: bool = False


class Publication(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A signed release on its way in; its artifacts were uploaded by digest before.

    Attributes:
        targets: Metadata of ``role`` that names the manifest.
        role: ``targets``, or the role that the family is delegated to.
        keys: Of an encrypted release, the content key of each artifact by the digest of its
            full sealed stream. Secret.

    """

    targets: bytes
    manifest: bytes
    role: Text = "targets"
    keys: Annotated[dict[Digest, bytes], Meta(max_length=MAX_CONTENT_KEYS)] = field(
        default_factory=dict
    )


class BundleWish(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Asks for an update bundle, for some devices or for ``every`` one that it fits."""

    release: Text
    devices: Annotated[tuple[Name, ...], Meta(max_length=100_000)] = ()
    every: bool = False


class RolloutWish(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Asks for a rollout.

    Attributes:
        release: ``family version``, ``family/version``, target or digest.
        select: Device query; empty takes ``devices``.
        devices: Device ids, for a rollout to chosen receivers.
        canary: Size of the first wave: ``1`` (devices) or ``5%``.
        waves: Sizes that the waves after it reach, ascending; the last takes who is left.
        soak_seconds: Quiet time after a wave before the next.
        failed_percent: More failures than this, of completed devices, halt it.
        min_completed: Fewer answers than this decide nothing.
        silence_seconds: A device without an answer counts as silent after this.
        one_way: Also ask devices that could not be taken back.

    """

    release: Text
    select: Text = "all"
    devices: tuple[Name, ...] = ()
    canary: Text = "1"
    waves: Annotated[tuple[Text, ...], Meta(max_length=20)] = ()
    soak_seconds: Annotated[float, Meta(ge=0, le=30 * Days)] = 60.0
    failed_percent: Annotated[float, Meta(ge=0, le=100)] = 5.0
    min_completed: Annotated[int, Meta(ge=1, le=10_000)] = 1
    silence_seconds: Annotated[float, Meta(gt=0, le=30 * Days)] = 3600.0
    one_way: bool = False


class RunWish(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Asks for a federated run from the release that a slot's devices run now.

    Attributes:
        guard: Devices that judge and do not train, wherever they are; empty names none
            beside the selected ones that only judge.
        held_out: File of labelled windows, on the manager's machine, measured at the end.
        promote: ``auto`` lets the manager make a release of the candidate by itself.
        clients: How many good replies a round of training waits for; 0 is all it asks.
        over_selection_percent: Of ``clients``, how many devices a round asks.
        minimum_replies: Fewer end the run; None is the manager's setting.
        deadline_seconds: How long a round waits; None is the manager's setting.
        mode: ``sync`` is rounds, ``async`` versions of which each is made of ``buffer`` answers.
        strategy, server_learning_rate, momentum, trim, byzantine: As in
            ``rounds.strategies``; None is the usual.
        updates: How devices send what they learned, see ``contract.updates``.
        max_norm: How many times the round's median step an update may be as long; 0 for any.
        client_app: ``name`` or ``name/number`` of the signed app that devices train with.

    """

    slot: Name
    rounds: Annotated[int, Meta(ge=1, le=10_000)] = 3
    select: Text = "all"
    guard: Text = ""
    held_out: Text | None = None
    promote: Annotated[str, Meta(pattern=r"^(|auto)$")] = ""
    clients: Annotated[int, Meta(ge=0, le=100_000)] = 0
    over_selection_percent: Annotated[int, Meta(ge=100, le=1000)] = 130
    minimum_replies: Annotated[int, Meta(ge=1, le=10_000)] | None = None
    deadline_seconds: Annotated[int, Meta(ge=1, le=Days)] | None = None
    mode: Annotated[str, Meta(pattern=r"^(sync|async)$")] = "sync"
    buffer: Annotated[int, Meta(ge=1, le=10_000)] | None = None
    seed: Annotated[int, Meta(ge=0, le=2**32 - 1)] = 1
    learning_rate: float | None = None
    epochs: int | None = None
    anchor: float | None = None
    anchor_to: AnchorTo | None = None
    strategy: Text | None = None
    server_learning_rate: float | None = None
    momentum: float | None = None
    trim: float | None = None
    byzantine: int | None = None
    max_norm: float | None = None
    updates: Updates = "f32"
    app: Text | None = None
    app_folder: Text | None = None
    client_app: Text | None = None


class HeldOutWish(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Tells what running release and candidate made of labelled windows; see ``HeldOut``."""

    digest: Digest
    running: Quality
    candidate: Quality


class PruneWish(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Asks to remove what nobody needs; ``dry_run`` only tells what that would be."""

    dry_run: bool = False
