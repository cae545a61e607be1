"""The device's trust code as a TUF client over HTTP, for the public conformance suite.

Rule 1: what verifies is ``agent.update.walk``; this file only fetches, stores and says
        yes (exit status 0) or no (1, with one sentence).
Rule 2: here alone ECDSA and RSA keys load besides Ed25519, because the suite signs with
        them; a device knows Ed25519 only.
Rule 3: trust is kept as on a device, in ``trust/state.json`` below the metadata folder;
        the plain files beside it are copies for the suite to look at.

Command line: tuf-conformance, ``CLIENT-CLI.md``.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from urllib import error, parse, request

sys.path.insert(0, str(Path(__file__).parents[2]))

from securesystemslib.signer import KEY_FOR_TYPE_AND_SCHEME
from tuf.api.exceptions import DownloadError, DownloadHTTPError
from tuf.api.metadata import Metadata, Root, TargetFile
from tuf.ngclient import FetcherInterface

OTHER_KEYS = {
    kind: key for kind, key in KEY_FOR_TYPE_AND_SCHEME.items() if kind[0] in {"ecdsa", "rsa"}
}
OTHER_KEYS |= {kind: key for kind, key in KEY_FOR_TYPE_AND_SCHEME.items() if "ecdsa-" in kind[0]}

from agent.contract.keys import register  # noqa: E402  # it empties what was copied above
from agent.disk import Disk  # noqa: E402
from agent.errors import AgentError, CorruptError, UnsignedError  # noqa: E402
from agent.update import trust  # noqa: E402
from agent.update.walk import Walk, check_target  # noqa: E402

SECONDS = 30.0
BLOCK_BYTES = 64 * 1024


class Http(FetcherInterface):
    """Files by plain HTTP; the length limits are python-tuf's."""

    def _fetch(self, url: str) -> Iterator[bytes]:
        opener = request.build_opener(request.ProxyHandler({}))
        try:
            with opener.open(url, timeout=SECONDS) as answer:
                while block := answer.read(BLOCK_BYTES):
                    yield block
        except error.HTTPError as why:
            raise DownloadHTTPError(f"{url} is answered with {why.code}", why.code) from why


def init(disk: Disk, root: bytes) -> None:
    """Pin a root, or find it pinned already."""
    digest = sha256(root).hexdigest()
    held = trust.load(disk)
    if held is None or held.pinned != digest:
        keep(disk, trust.pin(root, digest))


def keep(disk: Disk, state: trust.TrustState) -> None:
    """Save trust as a device does, and lay out the copies."""
    trust.save(disk, state)
    for role, content in {**state.metadata, "root": state.root}.items():
        disk.replace(f"{parse.quote(role, '')}.json", content)


def update(disk: Disk, url: str, name: str | None = None) -> TargetFile | None:
    """Refresh the metadata, and look up one target if it is named."""
    held = trust.load(disk)
    if held is None:
        raise UnsignedError("no root is pinned: run init first")
    with tempfile.TemporaryDirectory(prefix="tuf-client-") as folder:
        walk = Walk(held, Http(), Path(folder), int(time.time() * 1000), slashed(url))
        try:
            walk.refresh()
        except AgentError:
            salvaged = walk.salvage()
            if salvaged is not None:
                keep(disk, salvaged)
            raise
        try:
            return None if name is None else walk.target(name)
        finally:
            keep(disk, walk.state())


def download(disk: Disk, signed: TargetFile, folder: Path, base: str) -> None:
    """Fetch a target that is not there yet, and store it once it is the signed one."""
    store, stored = Disk(folder), parse.quote(signed.path, "")
    try:
        check_target(signed.path, signed, (folder / stored).read_bytes())
    except (OSError, CorruptError):
        folders, slash, last = signed.path.rpartition("/")
        state = trust.load(disk)
        if state and Metadata[Root].from_bytes(state.root).signed.consistent_snapshot:
            last = f"{signed.hashes.get('sha256', '')}.{last}"
        url = slashed(base) + parse.quote(f"{folders}{slash}{last}")
        content = Http().download_bytes(url, signed.length)
        store.replace(stored, check_target(signed.path, signed, content))


def slashed(url: str) -> str:
    """Return an address that ends in a slash."""
    return url if url.endswith("/") else f"{url}/"


def options() -> argparse.Namespace:
    """Read the command line of the suite."""
    line = argparse.ArgumentParser(prog="tuf-client", description=__doc__)
    line.add_argument("--metadata-dir", type=Path, required=True)
    line.add_argument("--metadata-url")
    line.add_argument("--target-name")
    line.add_argument("--target-dir", type=Path)
    line.add_argument("--target-base-url")
    commands = line.add_subparsers(dest="command", required=True)
    commands.add_parser("init").add_argument("root", type=Path)
    commands.add_parser("refresh")
    commands.add_parser("download")
    said = line.parse_args()
    if said.command != "init" and said.metadata_url is None:
        line.error("--metadata-url is missing")
    if said.command == "download" and None in (
        said.target_name, said.target_dir, said.target_base_url
    ):  # fmt: skip
        line.error("download needs --target-name, --target-dir and --target-base-url")
    return said


def main() -> int:
    """Run one command of the suite and return its exit status."""
    said = options()
    register()
    KEY_FOR_TYPE_AND_SCHEME.update(OTHER_KEYS)
    disk = Disk(said.metadata_dir)
    try:
        match said.command:
            case "init":
                init(disk, said.root.read_bytes())
            case "refresh":
                update(disk, said.metadata_url)
            case "download":
                signed = update(disk, said.metadata_url, said.target_name)
                if signed is not None:
                    download(disk, signed, said.target_dir, said.target_base_url)
    except (AgentError, DownloadError, OSError) as why:
        sys.stderr.write(f"tuf-client: {why}\n")
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
