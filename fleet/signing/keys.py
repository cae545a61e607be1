"""Key files: one secret Ed25519 key each, encrypted under its owner's passphrase.

Rule 1: a key file is made once (``O_EXCL``, 0600, on the medium) and never rewritten.
Rule 2: Argon2id turns the passphrase into the key of a SecretBox around the seed.
Rule 3: a key without a passphrase says so in its file, in words, and opens only where
        the caller says that this is a development fleet. There is no pretended
        encryption under an empty passphrase.

Format: JSON, version 1. Argon2id as in RFC 9106, XSalsa20-Poly1305, both by libsodium.
"""

import os
import stat
from pathlib import Path
from typing import Annotated, Final, Literal

import nacl.pwhash
import nacl.secret
import nacl.utils
from msgspec import Meta
from nacl.exceptions import CryptoError
from nacl.signing import SigningKey

from agent.contract.codec import Versioned, decode, encode
from agent.contract.keys import Ed25519Signer
from agent.contract.limits import MAX_PAYLOAD_BYTES
from agent.contract.messages import Hex64
from agent.errors import MalformedError, UnsupportedError
from fleet.durable import sync_folder
from fleet.errors import SigningError

OPS: Final = 3
MEMORY_BYTES: Final = 64 * 1024 * 1024
"""Argon2id for a person's passphrase: about 0.1 s on a desktop (RFC 9106, second choice)."""
MAX_MEMORY_BYTES: Final = 1024 * 1024 * 1024
MIN_PASSPHRASE_CHARACTERS: Final = 12

Hex = Annotated[str, Meta(pattern=r"^([0-9a-f]{2})*$(?!\n)", max_length=1024)]


class KeyFile(Versioned, frozen=True, kw_only=True):
    """One secret key on disk.

    Attributes:
        protection: How ``secret`` is kept.
        public: The public key, hex.
        secret: The seed's SecretBox, or the bare seed in a development fleet; hex.
        salt, ops, memory_bytes: Argon2id; empty and 0 without a passphrase.

    """

    protection: Literal["argon2id-secretbox", "none, development only"]
    public: Hex64
    secret: Hex
    salt: Hex = ""
    ops: Annotated[int, Meta(ge=0, le=64)] = 0
    memory_bytes: Annotated[int, Meta(ge=0, le=MAX_MEMORY_BYTES)] = 0


def create(path: Path, passphrase: str, *, dev: bool = False) -> Ed25519Signer:
    """Make a key and its file.

    Args:
        path: Where; must not exist yet.
        passphrase: At least 12 characters; empty only with ``dev``.
        dev: Allow a key without a passphrase, marked as such.

    Raises:
        SigningError: The file exists or cannot be written, or the passphrase is short.

    """
    signer = Ed25519Signer.generate()
    seed = bytes(signer.signing)
    if passphrase:
        if len(passphrase) < MIN_PASSPHRASE_CHARACTERS:
            raise SigningError(
                f"passphrase for {path.name} has {len(passphrase)} characters,"
                f" at least {MIN_PASSPHRASE_CHARACTERS} are needed"
            )
        salt = nacl.utils.random(nacl.pwhash.argon2id.SALTBYTES)
        box = _box(passphrase, salt, OPS, MEMORY_BYTES)
        file = KeyFile(
            protection="argon2id-secretbox",
            public=signer.public_hex,
            secret=bytes(box.encrypt(seed)).hex(),
            salt=salt.hex(),
            ops=OPS,
            memory_bytes=MEMORY_BYTES,
        )
    elif dev:
        file = KeyFile(
            protection="none, development only", public=signer.public_hex, secret=seed.hex()
        )
    else:
        raise SigningError(f"{path.name} needs a passphrase: only a development fleet has none")
    _write_new(path, encode(file))
    return signer


def load(path: Path, passphrase: str, *, dev: bool = False) -> Ed25519Signer:
    """Open a key file.

    Args:
        path: The file.
        passphrase: Its passphrase; not used for a key without one.
        dev: Accept a key without a passphrase.

    Raises:
        SigningError: The file is missing, broken or readable by others, its passphrase
            is another or not given, or it has none and ``dev`` is not set.

    """
    file = _read(path)
    if file.protection == "none, development only":
        if not dev:
            raise SigningError(
                f"key {path.name} has no passphrase: it was made for development"
                " and must not serve a real fleet"
            )
        seed = bytes.fromhex(file.secret)
    elif not passphrase:
        raise SigningError(f"key {path.name} is encrypted: say --passphrase-file")
    else:
        box = _box(passphrase, bytes.fromhex(file.salt), file.ops, file.memory_bytes, path)
        try:
            seed = box.decrypt(bytes.fromhex(file.secret))
        except (CryptoError, ValueError) as why:
            raise SigningError(f"the passphrase does not open key {path.name}") from why
    if len(seed) != nacl.secret.SecretBox.KEY_SIZE:
        raise SigningError(f"key {path.name} does not hold a seed of 32 bytes")
    signer = Ed25519Signer(SigningKey(seed))
    if signer.public_hex != file.public:
        raise SigningError(f"key {path.name} does not belong to the public key beside it")
    return signer


def is_encrypted(path: Path) -> bool:
    """Return whether a key file needs a passphrase.

    Raises:
        SigningError: It is missing, broken or readable by others.

    """
    return _read(path).protection == "argon2id-secretbox"


def read_public(path: Path) -> str:
    """Return the public key that a key file names, 64 hex digits; the secret stays closed.

    Raises:
        SigningError: It is missing, broken or readable by others.

    """
    return _read(path).public


def _read(path: Path) -> KeyFile:
    try:
        with os.fdopen(_open_without_waiting(path), "rb") as file:
            found = os.fstat(file.fileno())  # of the very file that is read
            content = file.read(MAX_PAYLOAD_BYTES + 1) if stat.S_ISREG(found.st_mode) else b""
    except OSError as why:
        raise SigningError(f"key {path} cannot be read: {why.strerror or why}") from why
    if not stat.S_ISREG(found.st_mode):
        raise SigningError(f"key {path} is not a file")
    if found.st_mode & 0o077:
        raise SigningError(f"key {path} is open to other users: chmod 600 it")
    if os.getuid() not in {0, found.st_uid} and found.st_uid:
        raise SigningError(f"key {path} belongs to another user, who can change it: make it yours")
    try:
        return decode(KeyFile, content)
    except (MalformedError, UnsupportedError) as why:
        raise SigningError(f"{path.name} is not a key file that this program knows: {why}") from why


def _open_without_waiting(path: Path) -> int:
    """Open a file; one that is a pipe must not hold us until somebody writes into it."""
    return os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)


def _box(
    passphrase: str, salt: bytes, ops: int, memory_bytes: int, path: Path | None = None
) -> nacl.secret.SecretBox:
    try:
        derived = nacl.pwhash.argon2id.kdf(
            nacl.secret.SecretBox.KEY_SIZE,
            passphrase.encode(),
            salt,
            opslimit=ops,
            memlimit=memory_bytes,
        )
    except (CryptoError, ValueError, TypeError) as why:
        named = "key" if path is None else f"key {path.name}"
        raise SigningError(f"{named} has Argon2id parameters that cannot be: {why}") from why
    return nacl.secret.SecretBox(derived)


def _write_new(path: Path, content: bytes) -> None:
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        sync_folder(path.parent)
    except FileExistsError as why:
        raise SigningError(f"key {path} exists already: keys are never overwritten") from why
    except OSError as why:
        raise SigningError(f"key {path} cannot be written: {why.strerror or why}") from why
