"""What this device has verified so far, and how a refresh extends it.

Rule 1: trust is one value in one file, replaced whole. An absent file means not
        enrolled: refuse everything. A broken one is an error, never an empty start.
Rule 2: python-tuf runs in ``agent.update.walk``, in a short-lived child with the
        metadata already collected; this module only holds values, so the daemon stays
        light and never waits for its own fetch.
Rule 3: marks (role, version, key ids) advance with every refresh and survive whatever
        happens to the metadata beside them.
Rule 4: expired metadata ends nothing that runs; it only stops new releases.
"""

from hashlib import sha256
from typing import Final, assert_never

import msgspec

from agent.contract.authority import Authority
from agent.contract.codec import Versioned, decode, encode
from agent.contract.manifest import Digest, Target
from agent.contract.marks import Mark, require_distinct_keys, view_root
from agent.contract.messages import Count
from agent.disk import Disk, read_versioned
from agent.errors import AgentError, TrustError, error_named
from agent.refusals import NoAuthorityError, WrongRootError

TRUST: Final = "trust/state.json"
MAX_JOB_BYTES: Final = 64 * 1024 * 1024
"""A job or an answer between the daemon and its child."""


class TrustState(Versioned, frozen=True, kw_only=True):
    """Everything that was verified from the pinned root.

    Attributes:
        pinned: SHA-256 of the root that the enrolment file named.
        root: The newest root that a verified chain from it reached.
        metadata: Verified metadata by role name: timestamp, snapshot, targets, and
            delegated roles.
        marks: The highest versions accepted, by role.
        authority: The verified bytes of ``fleet/authority.json``; None until the
            first refresh.
        permits: The verified bytes of ``fleet/permits.json``; None where there is none.
        endpoints: The same of ``fleet/endpoints.json``.

    """

    pinned: Digest
    root: bytes
    metadata: dict[str, bytes] = msgspec.field(default_factory=dict)
    marks: dict[str, Mark] = msgspec.field(default_factory=dict)
    authority: bytes | None = None
    permits: bytes | None = None
    endpoints: bytes | None = None

    @property
    def root_version(self) -> int:
        """The version to ask newer roots for (``MetaRequest.root``)."""
        return view_root(self.root).version

    @property
    def root_expires_ms(self) -> int:
        """Until when the root promises anything, ms since 1970."""
        return view_root(self.root).expires_ms

    def who_directs(self) -> Authority:
        """Return who may direct this device.

        Raises:
            UnsignedError: No refresh has succeeded yet, so nobody may.

        """
        if self.authority is None:
            raise NoAuthorityError("no authority is verified yet: refresh the metadata first")
        return decode(Authority, self.authority)


class RefreshJob(Versioned, frozen=True, kw_only=True):
    """What the child gets.

    Attributes:
        state: Trust so far.
        files: The ``MetaBundle`` that was collected, by name.
        wanted: Target names whose bytes are wanted, ``fleet/authority.json`` aside.
        now_ms: Trusted time, ms since 1970.

    """

    state: TrustState
    files: dict[str, bytes]
    wanted: tuple[Target, ...] = ()
    now_ms: Count


class Refusal(msgspec.Struct, frozen=True, kw_only=True):
    """An error of our tree on its way between processes."""

    code: str
    why: str


class Refreshed(msgspec.Struct, frozen=True, kw_only=True, tag="refreshed"):
    """Everything was verified.

    Attributes:
        state: Trust now; save it before using the rest.
        targets: Verified bytes by target name.
        refused: Why a wanted target is not among them, by target name.

    """

    state: TrustState
    targets: dict[str, bytes]
    refused: dict[str, Refusal]


class NotRefreshed(msgspec.Struct, frozen=True, kw_only=True, tag="not-refreshed"):
    """Nothing new may be used.

    Attributes:
        refusal: Why.
        state: What was verified before that, such as a newer root: save it. None leaves
            the trust so far.

    """

    refusal: Refusal
    state: TrustState | None = None


RefreshResult = Refreshed | NotRefreshed


class RefreshAnswer(Versioned, frozen=True, kw_only=True):
    """What the child writes."""

    result: RefreshResult


def load(disk: Disk) -> TrustState | None:
    """Return the trust so far, or None where this device never pinned a root.

    Raises:
        NewerStateError: A newer agent wrote it.
        StoreError: It cannot be read or does not parse.

    """
    return read_versioned(disk, TRUST, TrustState)


def save(disk: Disk, state: TrustState) -> None:
    """Keep the trust, whole or not at all.

    Raises:
        StoreError: It cannot be written; the trust so far stays.

    """
    disk.replace(TRUST, encode(state))


def pin(root: bytes, root_digest: str) -> TrustState:
    """Begin trust at a root whose digest came with the enrolment file.

    Raises:
        CorruptError: The bytes are not those of the digest.
        MalformedError: They are not root metadata.
        UnsignedError: A role counts one key twice.

    """
    if sha256(root).hexdigest() != root_digest:
        raise WrongRootError(f"root metadata does not have the pinned digest {root_digest[:16]}")
    require_distinct_keys(root)
    return TrustState(pinned=root_digest, root=root)


def pin_among(files: dict[str, bytes], root_digest: str) -> TrustState:
    """Begin trust at the one root among metadata files that has this digest.

    Raises:
        CorruptError: None of them has it.
        MalformedError, UnsignedError: As for ``pin``.

    """
    for content in files.values():
        if sha256(content).hexdigest() == root_digest:
            return pin(content, root_digest)
    raise WrongRootError(f"no metadata file has the pinned digest {root_digest[:16]}")


def error_of(refusal: Refusal) -> AgentError:
    """Return the error that crossed the process boundary as a refusal, to be raised."""
    error = error_named(refusal.code, refusal.why)
    return error if type(error) is not AgentError else TrustError(str(error))


def believe(result: RefreshResult) -> Refreshed:
    """Return what was verified.

    Raises:
        TrustError: It must not be believed; the class tells why.
        MalformedError: Some metadata does not parse.
        StoreError: The child could not write its temporary files.

    """
    match result:
        case Refreshed():
            return result
        case NotRefreshed(refusal=refusal):
            raise error_of(refusal)
        case _:
            assert_never(result)
