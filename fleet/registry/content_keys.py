"""The keys of encrypted artifacts: one small file each, readable by the manager's user only.

Rule 1: a key is on the medium before the release that needs it is in force, and is never
        replaced by another one: what lies sealed on disks would be lost.
Rule 2: whoever can read this folder and the artifacts can read the models. A backup that
        holds both is as secret as the models are.
"""

import os
import re
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Final

from agent.contract.codec import Versioned, decode, encode
from agent.contract.limits import DIGEST_PATTERN
from agent.contract.manifest import Digest
from agent.contract.messages import Hex64
from agent.errors import ContractError, UnsupportedError
from fleet.durable import sync_folder
from fleet.errors import ConflictError, NewerStateError, NotFoundError, RefusedError, RegistryError

_DIGEST: Final = re.compile(DIGEST_PATTERN)
_KEY_BYTES: Final = 32


class ContentKeyFile(Versioned, frozen=True, kw_only=True):
    """``content-keys/<digest>``: what opens the sealed streams of one artifact. Secret.

    Attributes:
        stream: SHA-256 of the stream without a base, which names the key.
        key: Hex.

    """

    stream: Digest
    key: Hex64


class ContentKeys:
    """Content keys by the digest of their artifact's full sealed stream, in one folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def keep(self, digest: str, key: bytes) -> None:
        """Keep a key durably; the same one again is a no-op.

        Raises:
            RefusedError: It is no key, or the name no digest.
            ConflictError: The stream has another key already.
            RegistryError: The disk refuses.

        """
        if len(key) != _KEY_BYTES or not _DIGEST.fullmatch(digest):
            raise RefusedError(f"what came for stream {digest[:16]!r} is no content key")
        if self.has(digest):
            if self.find(digest) != key:
                raise ConflictError(f"stream {digest[:16]} has another content key already")
            return
        content = encode(ContentKeyFile(stream=digest, key=key.hex()))
        try:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            # made for its owner only
            with NamedTemporaryFile(dir=self._folder, prefix=".new-", delete=False) as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            Path(file.name).replace(self._folder / digest)
            sync_folder(self._folder)
        except OSError as why:
            raise RegistryError(f"content key {digest[:16]}: {why.strerror or why}") from why

    def has(self, digest: str) -> bool:
        """Return whether there is a key for a stream."""
        return bool(_DIGEST.fullmatch(digest)) and (self._folder / digest).is_file()

    def find(self, digest: str) -> bytes:
        """Return the key of a stream.

        Raises:
            NotFoundError: There is none.
            NewerStateError: A newer version wrote it; it is left untouched.
            RegistryError: It cannot be read, or is of another stream.

        """
        if not self.has(digest):
            raise NotFoundError(f"there is no content key of stream {digest[:16]}")
        path = self._folder / digest
        try:
            file = decode(ContentKeyFile, path.read_bytes())
        except OSError as why:
            raise RegistryError(f"{path}: {why.strerror or why}") from why
        except UnsupportedError as why:
            raise NewerStateError(f"{path}: {why}: use the newer program") from why
        except ContractError as why:
            raise RegistryError(f"{path} is damaged: restore it from a backup ({why})") from why
        if file.stream != digest:
            raise RegistryError(f"{path} is the key of {file.stream[:16]}: restore it")
        return bytes.fromhex(file.key)
