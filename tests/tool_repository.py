"""A repository as python-tuf's own tools make one, with keys of every kind that they know."""

from collections import defaultdict
from datetime import UTC, datetime, timedelta

from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Metadata, MetaFile, Root, Snapshot, Targets, Timestamp
from tuf.repository import Repository

LIFETIME = timedelta(days=30)
_EMPTY = {"root": Root, "timestamp": Timestamp, "snapshot": Snapshot}


class ToolRepository(Repository):
    """Keeps what was published in ``files``, by the path that a client asks for."""

    def __init__(self) -> None:
        self.signers: dict[str, list[CryptoSigner]] = {
            "root": [
                CryptoSigner.generate_rsa(),
                CryptoSigner.generate_ecdsa(),
                CryptoSigner.generate_ed25519(),
            ],
            "targets": [CryptoSigner.generate_rsa(scheme="rsa-pkcs1v15-sha256")],
            "snapshot": [CryptoSigner.generate_ecdsa()],
            "timestamp": [CryptoSigner.generate_ecdsa()],
        }
        self.files: dict[str, bytes] = {}
        self._versions: dict[str, list[Metadata]] = defaultdict(list)
        with self.edit_root() as root:
            for role, signers in self.signers.items():
                for signer in signers:
                    root.add_key(signer.public_key, role)
            root.roles["root"].threshold = 2
        with self.edit_targets():
            pass
        self.put_online()

    def put_online(self) -> None:
        """Make snapshot and timestamp of what has changed."""
        self.do_snapshot()
        self.do_timestamp()

    def open(self, role: str) -> Metadata:
        """Return the newest metadata of a role, to be changed."""
        if not self._versions[role]:
            return Metadata(_EMPTY.get(role, Targets)())
        return Metadata.from_bytes(self._versions[role][-1].to_bytes())

    def close(self, role: str, md: Metadata) -> None:
        """Sign the next version of a role, and serve it."""
        md.signed.version = len(self._versions[role]) + 1
        md.signed.expires = datetime.now(UTC).replace(microsecond=0) + LIFETIME
        md.signatures.clear()
        for signer in self.signers[role]:
            md.sign(signer, append=True)
        self._versions[role].append(md)
        name = "timestamp" if role == "timestamp" else f"{md.signed.version}.{role}"
        self.files[f"metadata/{name}.json"] = md.to_bytes()

    @property
    def targets_infos(self) -> dict[str, MetaFile]:
        """The newest version of each targets role."""
        return {
            f"{role}.json": MetaFile(versions[-1].signed.version)
            for role, versions in self._versions.items()
            if role not in _EMPTY and versions
        }

    @property
    def snapshot_info(self) -> MetaFile:
        """The newest version of snapshot."""
        return MetaFile(self._versions["snapshot"][-1].signed.version)
