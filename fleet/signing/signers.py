"""From a key's address to something that signs, or to its public half.

    file:PATH            a key file of ``fieldfare keys new`` (a bare path means the same)
    command:PROGRAM ARG  a program that keeps the key: gets the payload on standard input
                         and prints the signature, 128 hex digits; with ``--public`` as last
                         argument it prints the public key, 64 hex digits
    public:HEX           a public key whose owner is not here

Rule 1: a passphrase is asked for only where a key file needs one.
Rule 2: what a program prints is believed only if it verifies under its public key.
Rule 3: a program is started without a shell.
"""

import shlex
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from nacl.signing import VerifyKey
from securesystemslib.exceptions import UnverifiedSignatureError, VerificationError
from securesystemslib.signer import Key, SecretsHandler, Signature, Signer

from agent.contract.keys import Ed25519Key
from fleet.errors import SigningError
from fleet.signing import keys

COMMAND_SECONDS: Final = 120.0
"""A person may have to touch a device before it signs."""
_PUBLIC_DIGITS: Final = 64

AskPassphrase = Callable[[Path], str]
"""Returns the passphrase of a key file."""


class CommandSigner(Signer):
    """A key that a program keeps.

    Args:
        command: The program and its arguments.

    Raises:
        SigningError: The program does not name a public key.

    """

    def __init__(self, command: Sequence[str]) -> None:
        self._command = tuple(command)
        self._public = _public_key(self._run(b"", "--public"), shlex.join(self._command))

    @property
    def public_key(self) -> Ed25519Key:
        """The public half, as TUF key."""
        return self._public

    def sign(self, payload: bytes) -> Signature:
        """Return the signature over ``payload``.

        Raises:
            SigningError: The program fails, or its signature does not verify.

        """
        signature = Signature(self._public.keyid, self._run(payload))
        try:
            self._public.verify_signature(signature, payload)
        except (UnverifiedSignatureError, VerificationError) as why:
            raise SigningError(
                f"{shlex.join(self._command)} printed something that is not a signature by its key"
            ) from why
        return signature

    @classmethod
    def from_priv_key_uri(
        cls, priv_key_uri: str, public_key: Key, secrets_handler: SecretsHandler | None = None
    ) -> "CommandSigner":
        """Refuse: keys are opened by ``open_signer``."""
        del public_key, secrets_handler
        raise ValueError(f"keys are opened by open_signer, not from {priv_key_uri[:40]}")

    def _run(self, payload: bytes, *more: str) -> str:
        named = shlex.join(self._command)
        try:
            done = subprocess.run(
                [*self._command, *more],
                input=payload,
                capture_output=True,
                check=False,
                timeout=COMMAND_SECONDS,
            )
        except OSError as why:
            raise SigningError(f"{named} cannot be started: {why.strerror or why}") from why
        except subprocess.TimeoutExpired as why:
            raise SigningError(f"{named} did not answer in {COMMAND_SECONDS:.0f} s") from why
        if done.returncode:
            words = done.stderr.decode(errors="replace").strip().rpartition("\n")[2]
            raise SigningError(f"{named} ended with status {done.returncode}: {words[:200]}")
        return done.stdout.decode(errors="replace").strip()


def open_signer(address: str, passphrase: AskPassphrase, *, dev: bool = False) -> Signer:
    """Open a key that can sign.

    Args:
        address: As above.
        passphrase: Asked where a key file is encrypted.
        dev: Accept a key file without a passphrase.

    Raises:
        SigningError: There is no such key, or it cannot be opened here.

    """
    scheme, rest = _split(address)
    match scheme:
        case "file":
            path = Path(rest)
            return keys.load(path, passphrase(path) if keys.is_encrypted(path) else "", dev=dev)
        case "command":
            return CommandSigner(_words(rest))
        case _:
            raise SigningError(f"{address[:80]} is only a public key: its owner has to sign")


def public_key_of(address: str) -> Ed25519Key:
    """Return the public half of a key, without opening it.

    Raises:
        SigningError: There is no such key.

    """
    scheme, rest = _split(address)
    match scheme:
        case "file":
            return _public_key(keys.read_public(Path(rest)), rest)
        case "command":
            return CommandSigner(_words(rest)).public_key
        case _:
            return _public_key(rest, address[:80])


def _split(address: str) -> tuple[str, str]:
    scheme, colon, rest = address.partition(":")
    if not colon or scheme not in {"file", "command", "public"}:
        return "file", address
    if not rest.strip():
        raise SigningError(f"{address!r} names no key: write {scheme}: and then which")
    return scheme, rest


def _words(command: str) -> list[str]:
    try:
        return shlex.split(command)
    except ValueError as why:
        raise SigningError(f"command:{command} cannot be taken apart: {why}") from why


def _public_key(text: str, source: str) -> Ed25519Key:
    if len(text) != _PUBLIC_DIGITS or text.strip("0123456789abcdef"):
        raise SigningError(f"{source} does not give a public key of 64 lower-case hex digits")
    return Ed25519Key.of(VerifyKey(bytes.fromhex(text)))
