"""The fleet's TUF repository on disk: what devices verify before they believe anything.

    metadata/N.root.json  N.targets.json  N.snapshot.json  timestamp.json
    targets/models/motion/<sha256>.3.json

Rule 1: files are written beside and renamed, each on the medium before the next:
        targets' files, targets, snapshot, and last ``timestamp.json``. What the timestamp
        does not reach does not exist; a crash before that line changes nothing.
Rule 2: online keys only re-sign snapshot and timestamp. New targets metadata comes from
        ``next_targets``, on the machine of a release engineer with an offline key.
Rule 3: nothing is published that root's targets keys did not sign, that does not follow
        the version before, or whose files are not the ones it names.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from agent.contract.keys import Ed25519Signer
from agent.contract.messages import Authority


@dataclass(frozen=True, slots=True, kw_only=True)
class OnlineKeys:
    """The keys that the manager holds while it runs."""

    snapshot: Ed25519Signer
    timestamp: Ed25519Signer
    director: Ed25519Signer
    enrolment: Ed25519Signer


def create_dev(keys_dir: Path, repo_dir: Path, fleet: str, now: datetime) -> OnlineKeys:
    """Make all keys of a development fleet and its first repository.

    Root has 3 keys with threshold 2, targets 2 with threshold 1, snapshot and timestamp 1
    each; all lie below ``keys_dir`` without a passphrase, which their files say.

    Raises:
        SigningError: Something of it exists already or cannot be written.

    """
    raise NotImplementedError


def load_online(keys_dir: Path, passphrase: str, *, dev: bool) -> OnlineKeys:
    """Open the manager's keys.

    Raises:
        SigningError: One of them is missing, broken or not to be used here.

    """
    raise NotImplementedError


def load_targets_keys(keys_dir: Path, passphrase: str, *, dev: bool) -> tuple[Ed25519Signer, ...]:
    """Open the release engineers' keys of a development fleet.

    Raises:
        SigningError: One of them is missing, broken or not to be used here.

    """
    raise NotImplementedError


def next_targets(
    current: bytes,
    *,
    additions: Mapping[str, bytes],
    removals: Collection[str],
    signers: Sequence[Ed25519Signer],
    now: datetime,
) -> bytes:
    """Return the targets metadata that follows ``current``, signed offline.

    Args:
        current: The targets metadata in force (``Repository.targets_metadata``).
        additions: Bytes of new or replaced targets by name.
        removals: Names that are withdrawn.
        signers: Targets keys, as many as the threshold asks for.
        now: Aware datetime; the expiry is counted from here.

    Raises:
        SigningError: ``current`` does not parse, or a name is not a target name or not there.

    """
    raise NotImplementedError


class Repository:
    """A published repository.

    One thread writes; any thread may read.

    Args:
        folder: Its directory.
        snapshot, timestamp: The online keys.

    Raises:
        SigningError: There is no repository, or it does not verify.

    """

    def __init__(self, folder: Path, *, snapshot: Ed25519Signer, timestamp: Ed25519Signer) -> None:
        raise NotImplementedError

    def publish(self, new_targets: bytes, files: Mapping[str, bytes], now: datetime) -> None:
        """Put new targets metadata and its files into force.

        Args:
            new_targets: From ``next_targets``.
            files: Bytes of every target that was not published before, by name.
            now: Aware datetime.

        Raises:
            SigningError: It is not signed, expired, not the next version, names no
                authority, or a file is missing or another; nothing changes.

        """
        raise NotImplementedError

    def refresh(self, now: datetime, *, under: timedelta = timedelta(days=6)) -> bool:
        """Re-sign snapshot and timestamp if they live less than ``under``.

        Returns:
            Whether anything was signed.

        Raises:
            SigningError: Files cannot be read or written.

        """
        raise NotImplementedError

    def bundle(self, root_above: int, targets: Iterable[str]) -> dict[str, bytes]:
        """Return what answers a ``MetaRequest``, by name.

        Args:
            root_above: The root version that the device holds; 0 for none.
            targets: Names of wanted targets; unknown ones are left out.
                ``fleet/authority.json`` is always there.

        Raises:
            SigningError: A file of the repository is missing.

        """
        raise NotImplementedError

    def root_digest(self) -> str:
        """Return the SHA-256 (hex) of the newest root: what enrolment files pin."""
        raise NotImplementedError

    def authority(self) -> Authority:
        """Return who may direct and enrol."""
        raise NotImplementedError

    def target(self, name: str) -> bytes | None:
        """Return the bytes of a published target, or None."""
        raise NotImplementedError

    def targets_metadata(self) -> bytes:
        """Return the targets metadata in force."""
        raise NotImplementedError

    def expires(self) -> dict[str, datetime]:
        """Return when each role's metadata runs out."""
        raise NotImplementedError
