"""Making a fleet's keys, and opening them again.

    keys/offline/root-1.json  root-2.json  root-3.json  targets-1.json  targets-2.json
    keys/online/snapshot.json  timestamp.json  director.json  enrolment.json

Rule 1: only a development fleet has all of them in one place and without passphrases;
        every one of its key files says so.
Rule 2: the manager opens the online keys and no others.
"""

from datetime import datetime
from pathlib import Path
from typing import Final

from tuf.api.metadata import Targets

from agent.contract.codec import encode
from agent.contract.keys import Ed25519Signer, register
from agent.contract.limits import require_name
from agent.contract.messages import AUTHORITY_TARGET, Authority
from agent.errors import ContractError
from fleet.errors import SigningError
from fleet.signing import keys
from fleet.signing.metadata import (
    build_root,
    first_targets,
    next_snapshot,
    next_timestamp,
    parse,
    stored_name,
)
from fleet.signing.published import write_whole
from fleet.signing.repository import OnlineKeys

_OFFLINE: Final = {"root": 3, "targets": 2}
_THRESHOLDS: Final = {"root": 2, "targets": 1}
_ONLINE: Final = ("snapshot", "timestamp", "director", "enrolment")


def create_dev(keys_dir: Path, repo_dir: Path, fleet: str, now: datetime) -> OnlineKeys:
    """Make all keys of a development fleet and its first repository.

    Root has 3 keys with threshold 2, targets 2 with threshold 1, snapshot and timestamp 1
    each; all lie below ``keys_dir`` without a passphrase, which their files say.

    Raises:
        SigningError: Something of it exists already or cannot be written.

    """
    register()
    try:
        require_name(fleet, "fleet")
    except ContractError as why:
        raise SigningError(str(why)) from why
    if (repo_dir / "metadata").exists():
        raise SigningError(f"there is a repository in {repo_dir} already")
    offline = {
        role: [keys.create(_offline(keys_dir, role, i), "", dev=True) for i in range(1, n + 1)]
        for role, n in _OFFLINE.items()
    }
    online = OnlineKeys(
        **{
            role: keys.create(keys_dir / "online" / f"{role}.json", "", dev=True)
            for role in _ONLINE
        }
    )
    authority = encode(
        Authority(
            fleet=fleet,
            director_epoch=1,
            director_keys=(online.director.public_hex,),
            enrolment_keys=(online.enrolment.public_hex,),
        )
    )
    role_keys = {**offline, "snapshot": [online.snapshot], "timestamp": [online.timestamp]}
    root = build_root(role_keys, _THRESHOLDS, now)
    targets = first_targets({AUTHORITY_TARGET: authority}, offline["targets"][:1], now)
    snapshot = next_snapshot(None, targets, online.snapshot, now)
    file = parse(Targets, targets).signed.targets[AUTHORITY_TARGET]
    write_whole(repo_dir / "targets" / stored_name(file), authority)
    write_whole(repo_dir / "metadata" / "1.root.json", root)
    write_whole(repo_dir / "metadata" / "1.targets.json", targets)
    write_whole(repo_dir / "metadata" / "1.snapshot.json", snapshot)
    timestamp = next_timestamp(None, snapshot, online.timestamp, now)
    write_whole(repo_dir / "metadata" / "timestamp.json", timestamp)
    return online


def load_online(keys_dir: Path, passphrase: str, *, dev: bool) -> OnlineKeys:
    """Open the manager's keys.

    Raises:
        SigningError: One of them is missing, broken or not to be used here.

    """
    folder = keys_dir / "online"
    return OnlineKeys(
        **{role: keys.load(folder / f"{role}.json", passphrase, dev=dev) for role in _ONLINE}
    )


def load_targets_keys(keys_dir: Path, passphrase: str, *, dev: bool) -> tuple[Ed25519Signer, ...]:
    """Open the release engineers' keys of a development fleet; the first is enough to sign.

    Raises:
        SigningError: One of them is missing, broken or not to be used here.

    """
    paths = [_offline(keys_dir, "targets", i) for i in range(1, _OFFLINE["targets"] + 1)]
    return tuple(keys.load(path, passphrase, dev=dev) for path in paths)


def _offline(keys_dir: Path, role: str, number: int) -> Path:
    return keys_dir / "offline" / f"{role}-{number}.json"
