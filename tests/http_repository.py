"""A TUF repository over HTTP whose keys and documents a test changes at will."""

import threading
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib import parse

from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import (
    DelegatedRole,
    Delegations,
    Metadata,
    MetaFile,
    Root,
    Snapshot,
    SuccinctRoles,
    TargetFile,
    Targets,
    Timestamp,
)

EXPIRES = datetime.now(UTC).replace(microsecond=0) + timedelta(days=30)
TOP = ("root", "timestamp", "snapshot", "targets")


@dataclass
class HttpRepository:
    """Served while it is a context; ``asked`` holds the paths that were asked for."""

    root: Root = field(default_factory=lambda: Root(expires=EXPIRES))
    timestamp: Timestamp = field(default_factory=lambda: Timestamp(expires=EXPIRES))
    snapshot: Snapshot = field(default_factory=lambda: Snapshot(expires=EXPIRES))
    targets: dict[str, Targets] = field(
        default_factory=lambda: {"targets": Targets(expires=EXPIRES)}
    )
    signers: dict[str, list[CryptoSigner]] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        for role in TOP:
            self.rotate(role)
        self.publish(root=True)

    def rotate(self, role: str, *signers: CryptoSigner) -> None:
        """Give a role other keys, ECDSA ones where none are named."""
        held = self.root.roles[role]
        held.keyids.clear()
        self.signers[role] = list(signers) or [CryptoSigner.generate_ecdsa()]
        for signer in self.signers[role]:
            self.root.add_key(signer.public_key, role)

    def new_root(self, *also: CryptoSigner) -> None:
        """Publish the next root, signed by its own keys and by ``also``."""
        self.root.version += 1
        self.files[f"metadata/{self.root.version}.root.json"] = self._sign(
            self.root, [*self.signers["root"], *also]
        )

    def delegate(
        self, name: str, *paths: str, by: str = "targets", terminating: bool = True
    ) -> Targets:
        """Let another role speak for some target names; one that is known keeps its key."""
        above = self.targets[by]
        if name not in self.targets:
            self.signers[name] = [CryptoSigner.generate_ecdsa()]
            self.targets[name] = Targets(expires=EXPIRES)
        role = DelegatedRole(name, [], 1, terminating=terminating, paths=list(paths))
        above.delegations = above.delegations or Delegations({}, {})
        assert above.delegations.roles is not None
        above.delegations.roles[name] = role
        above.add_key(self.signers[name][0].public_key, name)
        return self.targets[name]

    def delegate_bins(self, prefix: str, bits: int) -> list[str]:
        """Let hash bins speak for all target names (succinct delegations, TAP 15)."""
        top, signer = self.targets["targets"], CryptoSigner.generate_ecdsa()
        bins = SuccinctRoles([], 1, bits, prefix)
        top.delegations = Delegations({}, succinct_roles=bins)
        top.add_key(signer.public_key)
        for name in bins.get_roles():
            self.signers[name] = [signer]
            self.targets[name] = Targets(expires=EXPIRES)
        return list(bins.get_roles())

    def add(self, name: str, content: bytes, role: str = "targets") -> None:
        """Sign and serve a target."""
        signed = TargetFile.from_data(name, content, ["sha256"])
        self.targets[role].targets[name] = signed
        folder, slash, last = name.rpartition("/")
        prefix = f"{signed.hashes['sha256']}." if self.root.consistent_snapshot else ""
        self.files[f"targets/{folder}{slash}{prefix}{last}"] = content

    def publish(self, *, root: bool = False) -> None:
        """Sign everything as it is now; no version is raised."""
        if root:
            self.files["metadata/1.root.json"] = self._sign(self.root, self.signers["root"])
        for name, targets in self.targets.items():
            content = self._sign(targets, self.signers[name])
            quoted = parse.quote(name, "")
            self.files[f"metadata/{self._numbered(targets.version)}{quoted}.json"] = content
            self.snapshot.meta[f"{name}.json"] = self._named(targets.version, content)
        self.publish_online()

    def publish_online(self) -> None:
        """Sign snapshot and timestamp as they are now."""
        content = self._sign(self.snapshot, self.signers["snapshot"])
        self.files[f"metadata/{self._numbered(self.snapshot.version)}snapshot.json"] = content
        self.timestamp.snapshot_meta = self._named(self.snapshot.version, content)
        self.files["metadata/timestamp.json"] = self._sign(
            self.timestamp, self.signers["timestamp"]
        )

    def next(self) -> None:
        """Raise every version but root's, and publish."""
        for document in (self.timestamp, self.snapshot, *self.targets.values()):
            document.version += 1
        self.publish()

    def _numbered(self, version: int) -> str:
        return f"{version}." if self.root.consistent_snapshot else ""

    @staticmethod
    def _sign(document: Any, signers: list[CryptoSigner]) -> bytes:
        metadata = Metadata(document)
        for signer in signers:
            metadata.sign(signer, append=True)
        return metadata.to_bytes()

    @staticmethod
    def _named(version: int, content: bytes) -> MetaFile:
        return MetaFile(version, len(content), {"sha256": sha256(content).hexdigest()})

    def __enter__(self) -> Self:
        repository = self

        class Answers(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                name = self.path.lstrip("/")
                if name.startswith("targets/"):
                    name = parse.unquote(name)
                repository.asked.append(name.removeprefix("metadata/"))
                content = repository.files.get(name)
                self.send_response(404 if content is None else 200)
                self.send_header("Content-Length", str(len(content or b"")))
                self.end_headers()
                self.wfile.write(content or b"")

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"
