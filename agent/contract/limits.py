r"""How large, how long, how many: every bound that is checked before bytes are parsed.

Rule 1: a limit stands here or nowhere, so that both sides refuse the same bytes.
Rule 2: a name that becomes a topic, a file or a user name obeys ``NAME``.
Rule 3: a pattern ends in ``$(?!\n)``: a bare ``$`` also matches before a last newline.
"""

import re
from typing import Final

from agent.errors import MalformedError

SCHEMA_VERSION: Final = 1
PROTOCOL: Final = "ff/v1"

MAX_PAYLOAD_BYTES: Final = 128 * 1024
"""One MQTT message, so that the tree also fits AWS IoT Core."""
MAX_DOCUMENT_BYTES: Final = 64 * 1024
"""One signed JSON document, before its signature is checked."""
MAX_MANIFEST_BYTES: Final = 4 * 1024 * 1024
MAX_METADATA_BYTES: Final = 4 * 1024 * 1024
"""All TUF metadata of one refresh together."""
MAX_ARTIFACT_BYTES: Final = 2 * 1024**3
MAX_SOURCES: Final = 16
"""Of one artifact: a compressed one, and deltas against what devices run."""
CHUNK_BYTES: Final = 64 * 1024
CHUNK_HASH_BYTES: Final = 16
MAX_CHUNKS_PER_REQUEST: Final = 32
MAX_OUTSTANDING_BYTES: Final = 2 * 1024 * 1024
MAX_CONTENT_KEYS: Final = 128
"""Of one assignment: two for each release that it names, and more for its other variants."""
MAX_TENSOR_ELEMENTS: Final = 64 * 1024 * 1024
MAX_CHANNELS_TOLD: Final = 32
"""Of a model's input, by whose name a device tells what it saw."""
MAX_OUTPUTS_TOLD: Final = 8
"""Of a model's output; the classes are all counted whatever their number."""
MAX_TELEMETRY_BYTES: Final = 48 * 1024
"""One message of windows; more of them travel in another."""

LAST_MS: Final = 253_402_300_799_000
"""9999-12-31: whatever is said to be later is told as this, which every reader can hold."""

MAX_GRANT_BYTES: Final = 4096
"""Leave to fetch an artifact over HTTP, so that it fits into a header."""

MAX_FLOWER_BYTES: Final = 64 * 1024 * 1024
"""One Flower message with its arrays, put together again: 16 million float32 parameters."""
MAX_SHARED_RECORDS: Final = 8
"""Of one Flower message: records of arrays that travel beside it."""
INLINE_BYTES: Final = 4096
"""A record of arrays of at most so many bytes travels in its message."""

MAX_ROUNDS_STEP: Final = 1000
"""How far beyond the running release's counter the key of federated rounds may go."""

MAX_LEARNING_RATE: Final = 10
MAX_EPOCHS: Final = 2000
MAX_ANCHOR: Final = 100
"""What a device lets a run ask of its built-in trainer."""

NAME: Final = re.compile(r"[a-z0-9][a-z0-9-]{1,62}")
NAME_PATTERN: Final = r"^[a-z0-9][a-z0-9-]{1,62}$(?!\n)"
DIGEST_PATTERN: Final = r"^[0-9a-f]{64}$(?!\n)"
TARGET_PATTERN: Final = r"^[a-z0-9][a-z0-9._-]{0,63}(/[a-z0-9][a-z0-9._-]{0,63}){0,4}$(?!\n)"

ENROL_SEATS: Final = 256
"""Accounts that strangers share at random; see ``enrol_seat``."""


def enrol_seat(username: str, seat: int) -> str:
    """Return one of the public accounts: user name and client id in one.

    With one account for all, the broker would have to leave the client id open, and a
    stranger could displace a device by taking its id; or bind it, and strangers would
    displace each other.
    """
    return f"{username}-{seat:03d}"


def require_name(value: str, what: str) -> str:
    """Return ``value`` if it may stand in a topic, a path and a user name.

    Raises:
        MalformedError: It is not two to 63 lower-case letters, digits and hyphens.

    """
    if not NAME.fullmatch(value):
        raise MalformedError(
            f"{what} {value[:80]!r} is not 2 to 63 lower-case letters, digits and hyphens"
        )
    return value
