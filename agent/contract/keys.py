"""Ed25519 by libsodium for the TUF libraries, and nothing besides it.

Rule 1: ``register`` empties both registries of securesystemslib and allows one kind of
        key; metadata with any other does not load.
Rule 2: this module and a whole refresh work without ``cryptography``, which would
        cost a device several MiB.
Rule 3: a public key is 64 lower-case hex digits: one key, one spelling.

Imported by the refresh child and the fleet only; the daemon does not load TUF.
"""

import hashlib
import re
from typing import Any, Final

from nacl.exceptions import BadSignatureError
from nacl.exceptions import CryptoError as NaclError
from nacl.signing import SigningKey, VerifyKey
from securesystemslib.exceptions import UnverifiedSignatureError, VerificationError
from securesystemslib.formats import encode_canonical
from securesystemslib.signer import (
    KEY_FOR_TYPE_AND_SCHEME,
    SIGNER_FOR_URI_SCHEME,
    Key,
    SecretsHandler,
    Signature,
    Signer,
)

ED25519: Final = ("ed25519", "ed25519")
_PUBLIC = re.compile(r"[0-9a-f]{64}")
_SIGNATURE = re.compile(r"[0-9a-f]{128}")


class Ed25519Key(Key):
    """A public key in TUF metadata.

    Raises:
        ValueError: Another key type, or not 64 lower-case hex digits.

    """

    def __init__(
        self,
        keyid: str,
        keytype: str,
        scheme: str,
        keyval: dict[str, Any],
        unrecognized_fields: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(keyid, keytype, scheme, keyval, unrecognized_fields)
        public = keyval.get("public")
        if (keytype, scheme) != ED25519:
            raise ValueError(f"key type {keytype}/{scheme} is not allowed, only ed25519 is")
        if not isinstance(public, str) or not _PUBLIC.fullmatch(public):
            raise ValueError("public key is not 64 lower-case hex digits")
        self.verify_key: Final = VerifyKey(bytes.fromhex(public))

    @property
    def public_hex(self) -> str:
        """The key, 64 hex digits."""
        return bytes(self.verify_key).hex()

    @classmethod
    def of(cls, key: VerifyKey) -> "Ed25519Key":
        """Return the TUF key of a public key; its id is the hash of its canonical form."""
        keyval = {"public": bytes(key).hex()}
        canonical = encode_canonical(
            {"keytype": ED25519[0], "scheme": ED25519[1], "keyval": keyval}
        )
        keyid = hashlib.sha256(str(canonical).encode()).hexdigest()
        return cls(keyid, *ED25519, keyval)

    @classmethod
    def from_dict(cls, keyid: str, key_dict: dict[str, Any]) -> "Ed25519Key":
        """Read the key from metadata."""
        keytype, scheme, keyval = cls._from_dict(key_dict)
        return cls(keyid, keytype, scheme, keyval, key_dict)

    def to_dict(self) -> dict[str, Any]:
        """Return the key for metadata."""
        return self._to_dict()

    def verify_signature(self, signature: Signature, data: bytes) -> None:
        """Return if this key signed ``data``.

        Raises:
            UnverifiedSignatureError: It did not.
            VerificationError: The signature is malformed.

        """
        text: object = signature.signature  # whatever the metadata had there
        if not isinstance(text, str) or not _SIGNATURE.fullmatch(text):
            raise VerificationError(f"signature by {self.keyid} is not 128 hex digits")
        try:
            self.verify_key.verify(data, bytes.fromhex(text))
        except BadSignatureError as why:
            raise UnverifiedSignatureError(f"not signed by {self.keyid}") from why
        except NaclError as why:
            raise VerificationError(f"key {self.keyid} cannot verify anything") from why


class Ed25519Signer(Signer):
    """A secret key that signs TUF metadata and, as ``signing``, our own documents."""

    def __init__(self, signing: SigningKey) -> None:
        self.signing: Final = signing
        self._public = Ed25519Key.of(signing.verify_key)

    @property
    def public_key(self) -> Ed25519Key:
        """The public half, as TUF key."""
        return self._public

    @property
    def public_hex(self) -> str:
        """The public half, 64 hex digits."""
        return bytes(self.signing.verify_key).hex()

    def sign(self, payload: bytes) -> Signature:
        """Return the signature over ``payload``."""
        return Signature(self._public.keyid, self.signing.sign(payload).signature.hex())

    @classmethod
    def generate(cls) -> "Ed25519Signer":
        """Make a new key."""
        return cls(SigningKey.generate())

    @classmethod
    def from_priv_key_uri(
        cls, priv_key_uri: str, public_key: Key, secrets_handler: SecretsHandler | None = None
    ) -> "Ed25519Signer":
        """Refuse: key files are opened by ``fleet.signing.keys``, not by an address."""
        del public_key, secrets_handler
        raise ValueError(f"keys are loaded from their files, not from {priv_key_uri[:40]}")


def register() -> None:
    """Leave Ed25519 by libsodium as the only key type that metadata may use."""
    KEY_FOR_TYPE_AND_SCHEME.clear()
    KEY_FOR_TYPE_AND_SCHEME[ED25519] = Ed25519Key
    SIGNER_FOR_URI_SCHEME.clear()
