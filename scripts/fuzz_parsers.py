"""What ``scripts/fuzz`` calls: every parser of untrusted bytes, with honest inputs to begin from.

Rule 1: a parser may raise ``ContractError``, ``ModelError`` or ``TrustError``; anything else is
        a crash.
Rule 2: seeds are the published vectors and one honest example of each other kind.
Rule 3: where a signature stands before a parser, the fuzzed bytes are signed, or nothing
        behind the signature would ever be reached.
"""

import tempfile
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from io import BytesIO
from pathlib import Path

import msgspec
import numpy as np
import zstandard
from nacl.signing import SigningKey
from numpy.typing import NDArray
from securesystemslib.formats import encode_canonical

from agent.contract import records
from agent.contract.authority import Authority
from agent.contract.belief import (
    believe_ack,
    believe_assignment,
    believe_fresh,
    believe_permits,
    believe_release,
    believe_task,
)
from agent.contract.bundle import read_bundle
from agent.contract.codec import decode, encode
from agent.contract.envelope import (
    DOCUMENT_CONTEXT,
    Document,
    Stamp,
    _covered,
    key_id,
    open_document,
)
from agent.contract.expand import expand_source
from agent.contract.frames import Piece, pack_parcel, unpack_parcel
from agent.contract.keys import Ed25519Signer
from agent.contract.manifest import describe_artifact
from agent.contract.marks import require_distinct_keys
from agent.contract.messages import Assigned, ChunkRefusal, ChunkRequest
from agent.contract.records import ArrayRecord, ConfigRecord, MetricRecord
from agent.contract.rounds import Task
from agent.contract.sealing import (
    OpenedStream,
    new_key,
    seal_stream,
    unwrap_key,
    wrap_key,
)
from agent.contract.sources import FULL, SEALED
from agent.contract.tensors import (
    Failure,
    FlowerMessage,
    Metadata,
    decode_message,
    encode_message,
)
from agent.contract.topics import ACK, ASSIGNMENT, FRESH, ROUND_OFFER, Topics
from agent.contract.vectors import read_vectors
from agent.errors import ContractError, ModelError, TrustError
from agent.infer import litert, onnx_file, tflite_file
from agent.infer.arrays import read_npz, write_npz
from agent.infer.onnx import PROBE_MODEL
from agent.learn.stand_in.messages import read_message, write_message
from agent.update.refresh import refresh
from agent.update.trust import RefreshJob, RefreshResult, TrustState, pin
from fleet.rounds.screen import screen_reply
from tests.signed_fleet import SignedFleet

VECTORS = Path(__file__).resolve().parents[1] / "tests" / "vectors"
MAX_INPUT_BYTES = 16_384
NOW_MS = 1_772_366_400_000
KEY = SigningKey(b"f" * 32)
DEVICE = "d-aaaaaaaaaaaaaaaa"
NONCE = "ab" * 16
PUBLIC = bytes(KEY.verify_key).hex()
AUTHORITY = Authority(
    fleet="demo", director_epoch=2, director_keys=(PUBLIC,), enrolment_keys=(PUBLIC,)
)

Parser = Callable[[bytes], object]


def vectors(kind: str, member: str) -> list[bytes]:
    """Return one member of every published vector of a kind."""
    found = (getattr(v, member) for v in read_vectors((VECTORS / f"{kind}.json").read_bytes()))
    return [seed if isinstance(seed, bytes) else str(seed).encode() for seed in found]


def signed(topic: str, body: bytes) -> bytes:
    """Return a document around any text at all, with a good signature."""
    text = body.decode(errors="replace")
    covered = _covered(DOCUMENT_CONTEXT, topic, "", text.encode())
    sig = KEY.sign(covered).signature.hex()
    return encode(Document(kid=key_id(KEY.verify_key), sig=sig, body=text))


def envelopes() -> tuple[Parser, list[bytes]]:
    """Documents, and stamps of reports."""

    def parse(content: bytes) -> None:
        words = content.decode(errors="replace").split("\n")
        each(
            lambda: open_document([KEY.verify_key], "dn/d-7/ack", content),
            lambda: Stamp.read(list(zip(("boot", "seq", "sig"), words, strict=False))),
        )

    return parse, [*vectors("document", "payload"), b"7-00112233445566ff\n41\n" + b"00" * 64]


def manifests() -> tuple[Parser, list[bytes]]:
    """Manifests whose digest is believed, and permits."""

    def parse(content: bytes) -> None:
        believe_permits(content, fleet="demo")
        believe_release(
            content,
            Assigned(target="models/motion/v5.json", digest=sha256(content).hexdigest(), counter=5),
            slot="motion",
            hardware="generic-linux",
            running=None,
            running_digest=None,
            floor=0,
        )

    return parse, vectors("release", "manifest")


def assignments() -> tuple[Parser, list[bytes]]:
    """Assignments, signed time and acknowledgements behind a good signature."""

    def parse(content: bytes) -> None:
        each(
            lambda: believe_assignment(
                signed(ASSIGNMENT.at(DEVICE).logical, content),
                authority=AUTHORITY, fleet="demo", device=DEVICE, accepted=None, now_ms=NOW_MS,
            ),
            lambda: believe_fresh(
                signed(FRESH.at(DEVICE).logical, content),
                authority=AUTHORITY,
                device=DEVICE,
                nonce=NONCE,
            ),
            lambda: believe_ack(
                signed(ACK.at(DEVICE).logical, content), authority=AUTHORITY, device=DEVICE
            ),
        )  # fmt: skip

    bodies = []
    for kind in ("assignment", "fresh", "ack"):
        for payload in vectors(kind, "payload"):
            try:
                bodies.append(str(msgspec.json.decode(payload)["body"]).encode())
            except (msgspec.DecodeError, KeyError):
                continue
    return parse, bodies


def metadata() -> tuple[Parser, list[bytes]]:
    """TUF metadata: a whole refresh, with one role replaced, as it is or signed."""
    with tempfile.TemporaryDirectory() as folder:
        fleet = SignedFleet(Path(folder) / "fleet")
        files = fleet.repository.bundle(0, ())
        online, offline = fleet.online, fleet.targets_keys[:1]
        roots = tuple(fleet.root_keys()[:2])
    root = files.pop("1.root.json")
    state = pin(root, sha256(root).hexdigest())
    roles: dict[bytes, tuple[str, tuple[Ed25519Signer, ...]]] = {
        b"t": ("timestamp.json", (online.timestamp,)),
        b"s": ("snapshot.json", (online.snapshot,)),
        b"g": ("targets.json", offline),
        b"r": ("2.root.json", roots),
    }

    def run(changed: dict[str, bytes], since: TrustState) -> RefreshResult:
        return refresh(RefreshJob(state=since, files={**files, **changed}, now_ms=NOW_MS))

    def resign(content: bytes, signers: tuple[Ed25519Signer, ...]) -> bytes:
        said = msgspec.json.decode(content)["signed"]
        covered = str(encode_canonical(said)).encode()
        signatures = [signer.sign(covered).to_dict() for signer in signers]
        return msgspec.json.encode({"signatures": signatures, "signed": said})

    def parse(content: bytes) -> None:
        name, signers = roles.get(content[:1], roles[b"t"])
        content = content[1:]
        for tried in (content, _or_none(lambda: resign(content, signers))):
            if tried is None:
                continue
            result = run({name: tried}, state)
            kept = result.state
            if kept is not None:
                run({}, kept)
            each(lambda tried=tried: require_distinct_keys(tried))  # type: ignore[misc]  # bound now

    named = [mark + files[name] for mark, (name, _) in roles.items() if name in files]
    later = root.replace(b'"version":1}', b'"version":2}')
    return parse, [*named, b"r" + root, b"r" + later]


def _or_none(call: Callable[[], bytes]) -> bytes | None:
    try:
        return call()
    except Exception:  # noqa: BLE001  # what cannot be signed is only tried as it is
        return None


def chunks() -> tuple[Parser, list[bytes]]:
    """Pieces, chunks and requests for them."""
    artifact = describe_artifact(bytes(5000), 1024)

    def parse(content: bytes) -> None:
        each(
            lambda: Piece.decode(content),
            lambda: artifact.check_chunk(content[0] if content else -1, content[1:]),
            lambda: decode(ChunkRequest, content),
            lambda: decode(ChunkRefusal, content),
        )

    asked = b'{"v":1,"a":"' + b"0" * 64 + b'","r":[[0,1],[9,32]]}'
    return parse, [p for p in vectors("piece", "payload") if len(p) < MAX_INPUT_BYTES] + [asked]


def parcels() -> tuple[Parser, list[bytes]]:
    """Parcels, and tasks of rounds in them behind a good signature."""
    topic = ROUND_OFFER.at(DEVICE, "run-1").logical
    task = Task(
        device=DEVICE, run="run-1", task="task-1", kind="train", backbone="0" * 64,
        digest=sha256(b"").hexdigest(), lasts_seconds=1,
    )  # fmt: skip

    def parse(content: bytes) -> None:
        each(
            lambda: unpack_parcel(content),
            lambda: believe_task(
                pack_parcel(signed(topic, content), b""),
                authority=AUTHORITY,
                device=DEVICE,
                run="run-1",
            ),
        )

    return parse, [*vectors("parcel", "payload"), msgspec.json.encode(task)]


def sealed_streams() -> tuple[Parser, list[bytes]]:
    """Sealed streams as they are, and their frames around parts that do open; boxes of keys."""
    key = new_key()
    good = seal_stream(b"content " * 50, key)

    def seal(content: bytes) -> BytesIO:
        return BytesIO(seal_stream(content, key))

    def parse(content: bytes) -> None:
        each(
            lambda: OpenedStream(BytesIO(content), key).read(),
            lambda: OpenedStream(BytesIO(good[: len(content) % len(good)] + content), key).read(),
            lambda: list(
                expand_source(SEALED + FULL, BytesIO(seal_stream(content, key)), None, 99, key)
            ),
            lambda: unwrap_key(content, KEY),
        )

    zstd = zstandard.compress(b"z" * 99)
    return parse, [good, zstd, wrap_key(key, KEY.verify_key), *vectors("sealed", "stream")]


def bundles() -> tuple[Parser, list[bytes]]:
    """Update bundles, and what follows their first bytes."""

    def parse(content: bytes) -> None:
        each(
            lambda: read_bundle(BytesIO(content), DEVICE),
            lambda: read_bundle(BytesIO(b"FFB\x01" + content), DEVICE),
        )

    return parse, [*vectors("bundle", "payload"), *(p[4:] for p in vectors("bundle", "payload"))]


def topics() -> tuple[Parser, list[bytes]]:
    """Topics; what is read must be written back as it was."""
    tree = Topics(fleet="demo")

    def parse(content: bytes) -> None:
        text = content.decode(errors="replace")
        assert tree.write(tree.read(text)) == text

    return parse, vectors("topic", "topic")


def tensors() -> tuple[Parser, list[bytes]]:
    """Flower messages with their records and arrays, and what is made of a device's reply."""
    arrays = ArrayRecord({"w": np.ones((2, 3), np.float32), "b": np.zeros(3, np.int64)})
    message = FlowerMessage(
        metadata=Metadata(
            run_id=1, message_id="m", src_node_id=1, dst_node_id=2, message_type="train"
        ),
        content={
            "arrays": arrays,
            "metrics": MetricRecord({"loss": 0.5, "seen": (1, 2, 3)}),
            "config": ConfigRecord({"rate": 0.1, "name": "x", "raw": b"\0", "on": True}),
        },
    )
    asked = replace(
        message, content={"arrays": arrays, "config": ConfigRecord({"none": (), "far": 2**64 - 1})}
    )
    reply = replace(
        message,
        metadata=replace(message.metadata, reply_to_message_id="m", group_id="ä"),
        content={"arrays": arrays, "metrics": MetricRecord({"num-examples": 3, "none": ()})},
    )
    seeds = [
        *(encode_message(one) for one in (message, asked, reply)),
        encode_message(replace(message, content=Failure(-1, "why"))),
        records.encode_record("arrays", arrays),
        records.encode_record("fitres.parameters", arrays).replace(b"\x0a\x07float32", b""),
        encode_message(
            replace(message, content={"a": ArrayRecord({"0": np.array(1.0), "f": _fortran()})})
        ),
    ]

    def written_again(content: bytes) -> None:
        written = encode_message(decode_message(content))
        assert encode_message(decode_message(written)) == written

    def parse(content: bytes) -> None:
        each(
            lambda: written_again(content),
            lambda: records.decode_record(memoryview(content)),
            lambda: screen_reply(content, seeds[1]),
            lambda: write_message(read_message(content)),
        )

    return parse, seeds


def _fortran() -> NDArray[np.float16]:
    return np.asfortranarray(np.ones((2, 2), np.float16))


def models() -> tuple[Parser, list[bytes]]:
    """Model files, before a library opens them, and archives of golden vectors."""
    folder = Path(__file__).parent / "base_model"
    golden = write_npz({"v": np.array(1), "in.x": np.ones((1, 3), np.float32)})

    def parse(content: bytes) -> None:
        each(
            lambda: onnx_file.examine_content(memoryview(content), "the model"),
            lambda: tflite_file.examine_content(memoryview(content), "the model"),
            lambda: read_npz(content, limit_bytes=MAX_INPUT_BYTES),
        )

    small = (folder / "motion-int8.onnx").read_bytes()[: MAX_INPUT_BYTES // 2]
    return parse, [PROBE_MODEL, litert.PROBE_MODEL, small, golden]


PARSERS: dict[str, Callable[[], tuple[Parser, list[bytes]]]] = {
    "envelope": envelopes,
    "manifest": manifests,
    "assignment": assignments,
    "metadata": metadata,
    "chunk": chunks,
    "parcel": parcels,
    "sealed": sealed_streams,
    "bundle": bundles,
    "topic": topics,
    "tensors": tensors,
    "model": models,
}


def each(*calls: Callable[[], object]) -> None:
    """Make each call, whatever another of them refuses."""
    for call in calls:
        refused(call)


def refused(call: Callable[[], object]) -> None:
    """Make a call that may refuse what it is given."""
    try:
        call()
    except (ContractError, ModelError, TrustError):
        return
