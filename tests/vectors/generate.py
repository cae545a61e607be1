"""Writes the published test vectors from fixed seeds.

    .venv/bin/python tests/vectors/generate.py

Rule 1: each outcome is stated here by hand; nothing is copied from what the code says.
Rule 2: running it again changes no byte (Ed25519 signatures are deterministic), also after a
        message got a new optional member: members at their default are left out.
"""

import sys
from base64 import b64encode
from hashlib import sha256
from pathlib import Path

import msgspec
from nacl.signing import SigningKey

sys.path.insert(0, str(Path(__file__).parents[2]))

from agent.contract import envelope
from agent.contract.authority import Authority
from agent.contract.belief import Accepted
from agent.contract.envelope import Boot, device_id, stamp_report
from agent.contract.frames import pack_parcel, split_file
from agent.contract.limits import CHUNK_BYTES, MAX_DOCUMENT_BYTES
from agent.contract.manifest import (
    Artifact,
    Release,
    Source,
    Tensor,
    Variant,
    describe_artifact,
)
from agent.contract.messages import Ack, Assigned, Assignment, Fresh
from agent.contract.topics import ACK, ASSIGNMENT, FRESH
from agent.contract.vectors import (
    AckVector,
    AssignmentVector,
    ChunkVector,
    DocumentVector,
    FreshVector,
    Outcome,
    ParcelVector,
    PieceVector,
    ReleaseVector,
    ReportVector,
    TopicVector,
    Vector,
    VectorFile,
)
from tests.vectors import contents

FOLDER = Path(__file__).parent
NOW_MS = 1_772_366_400_000
DEVICE_KEY, DIRECTOR, STRANGER = (SigningKey(bytes([n]) * 32) for n in (1, 2, 3))
DEVICE, OTHER = device_id(DEVICE_KEY.verify_key), device_id(STRANGER.verify_key)
BOOT = Boot(7, "00112233445566ff")
NONCE = "0123456789abcdef" * 2
AUTHORITY = Authority(
    fleet="demo",
    director_epoch=2,
    director_keys=(bytes(DIRECTOR.verify_key).hex(),),
    enrolment_keys=("0" * 64,),
)


def lean(value: object) -> object:
    """Return a message as plain JSON values, without members that are at their default."""
    match value:
        case msgspec.Struct():
            tag = {"kind": value.__struct_config__.tag} if value.__struct_config__.tag else {}
            members = {
                field.encode_name: getattr(value, field.name)
                for field in msgspec.structs.fields(value)
                if field.name == "v" or getattr(value, field.name) != _default(field)
            }
            return tag | {name: lean(member) for name, member in members.items()}
        case tuple():
            return [lean(item) for item in value]
        case dict():
            return {name: lean(item) for name, item in value.items()}
        case bytes():
            return b64encode(value).decode()
        case _:
            return value


def _default(field: msgspec.structs.FieldInfo) -> object:
    made = field.default_factory
    return field.default if made is msgspec.NODEFAULT else made()


def written(message: msgspec.Struct) -> bytes:
    """Return the lean JSON of a message."""
    return msgspec.json.encode(lean(message))


def sign_document(key: SigningKey, topic: str, body: msgspec.Struct) -> bytes:
    """Return a document around the lean JSON of a body."""
    return envelope.sign_document(key, topic, msgspec.Raw(written(body)))


def public(key: SigningKey) -> str:
    """Return a public key as vectors spell it."""
    return bytes(key.verify_key).hex()


def flipped(content: bytes, word: bytes) -> bytes:
    """Return the bytes with the lowest bit of a word's first byte changed."""
    at = content.index(word)
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


def topics() -> list[Vector]:
    """Topics of the tree, and what only looks like one."""

    def of(name: str, outcome: Outcome, topic: str, logical: str = "") -> Vector:
        return TopicVector(
            name=name, outcome=outcome, prefix="ff/v1", fleet="demo", topic=topic, logical=logical
        )

    return [
        of("telemetry", "accepted", "ff/v1/demo/up/d-7/tele/windows", "up/d-7/tele/windows"),
        of("assignment", "accepted", "ff/v1/demo/dn/d-7/assignment", "dn/d-7/assignment"),
        of("enrolment", "accepted", f"ff/v1/demo/enrol/req/{NONCE}", f"enrol/req/{NONCE}"),
        of(
            "the prefix is not signed", "mismatch", "ff/v1/demo/dn/d-7/ack", "ff/v1/demo/dn/d-7/ack"
        ),
        of("another fleet", "malformed", "ff/v1/other/up/d-7/presence"),
        of("another version", "malformed", "ff/v2/demo/up/d-7/presence"),
        of("another way", "malformed", "ff/v1/demo/dn/d-7/presence"),
        of("a wildcard", "malformed", "ff/v1/demo/up/+/presence"),
        of("an upper-case owner", "malformed", "ff/v1/demo/up/D-7/presence"),
        of("an owner with a line feed", "malformed", "ff/v1/demo/up/d-7\n/presence"),
        of("a segment too many", "malformed", "ff/v1/demo/up/d-7/presence/now"),
        of("an empty segment", "malformed", "ff/v1/demo/up//presence"),
        of("an owner of 64 characters", "malformed", f"ff/v1/demo/up/{'d' * 64}/presence"),
    ]


def reports() -> list[Vector]:
    """Stamped reports."""
    topic, payload = f"up/{DEVICE}/evt/alarm", b'{"v":1,"id":"00"}'
    good = stamp_report(DEVICE_KEY, topic, BOOT, 41, payload).properties()
    boot, sequence, signature = good

    def of(
        name: str,
        outcome: Outcome,
        properties: tuple[tuple[str, str], ...] = good,
        *,
        at: str = topic,
        said: bytes = payload,
        key: SigningKey = DEVICE_KEY,
    ) -> Vector:
        return ReportVector(
            name=name,
            outcome=outcome,
            key=public(key),
            topic=at,
            properties=properties,
            payload=said,
        )

    return [
        of("a good report", "accepted"),
        of("other properties are ignored", "accepted", (("traceparent", "00"), *good)),
        of("another device's key", "unsigned", key=STRANGER),
        of("another topic", "unsigned", at=f"up/{DEVICE}/evt/gap"),
        of("the topic with its prefix", "unsigned", at=f"ff/v1/demo/{topic}"),
        of("one more byte", "unsigned", said=payload + b" "),
        of("another sequence", "unsigned", (boot, ("seq", "42"), signature)),
        of("another boot", "unsigned", (("boot", "8-00112233445566ff"), sequence, signature)),
        of("a stripped signature", "unsigned", (boot, sequence)),
        of("no properties", "unsigned", ()),
        of("a short signature", "malformed", (boot, sequence, ("sig", signature[1][:-2]))),
        of("a signature that is not hex", "malformed", (boot, sequence, ("sig", "zz" * 64))),
        of("a negative sequence", "malformed", (boot, ("seq", "-1"), signature)),
        of("a sequence of 2^63", "malformed", (boot, ("seq", str(2**63)), signature)),
        of("a boot with leading zeros", "malformed", (("boot", "07-" + BOOT.salt), *good[1:])),
    ]


def documents() -> list[Vector]:
    """Signed documents, before their bodies are parsed."""
    topic = f"dn/{DEVICE}/ack"
    body = Ack(device=DEVICE, boot=str(BOOT), sequence=9)
    good = sign_document(DIRECTOR, topic, body)

    def of(
        name: str,
        outcome: Outcome,
        payload: bytes = good,
        *,
        at: str = topic,
        keys: tuple[SigningKey, ...] = (DIRECTOR,),
    ) -> Vector:
        return DocumentVector(
            name=name,
            outcome=outcome,
            keys=tuple(public(key) for key in keys),
            topic=at,
            payload=payload,
        )

    return [
        of("a good document", "accepted"),
        of("signed by the second of two keys", "accepted", keys=(STRANGER, DIRECTOR)),
        of("members that this version does not know", "accepted", good[:-1] + b',"later":1}'),
        of("a stranger's key", "unsigned", sign_document(STRANGER, topic, body)),
        of("no keys are believed", "unsigned", keys=()),
        of("another topic", "unsigned", at=f"dn/{DEVICE}/fresh"),
        of("a flipped bit in the body", "unsigned", flipped(good, b"sequence")),
        of("a key id of another key", "unsigned", flipped(good, public(DIRECTOR)[:16].encode())),
        of("a signature of one byte", "unsigned", good.replace(_signature(good), b"00")),
        of("a signature that is not hex", "malformed", good.replace(_signature(good), b"xy")),
        of("a newer version", "unsupported", good.replace(b'"v":1', b'"v":2', 1)),
        of("no JSON", "malformed", b"\x00"),
        of("cut short", "malformed", good[:-1]),
        of("over the limit", "malformed", good + b" " * MAX_DOCUMENT_BYTES),
        of("nested too deep", "malformed", b"[" * 20_000),
    ]


def _signature(document: bytes) -> bytes:
    return str(msgspec.json.decode(document)["sig"]).encode()


PLAIN = Assignment(
    device=DEVICE,
    fleet="demo",
    director_epoch=2,
    sequence=5,
    slots={"motion": Assigned(target="models/motion/v1.json", digest="0" * 64, counter=1)},
    issued_ms=NOW_MS,
    expires_ms=NOW_MS + 1000,
)


def assignments() -> list[Vector]:
    """The desired state of one device."""
    topic = ASSIGNMENT.at(DEVICE).logical

    def signed(by: SigningKey = DIRECTOR, at: str = topic, **changes: object) -> bytes:
        return sign_document(by, at, msgspec.structs.replace(PLAIN, **changes))

    accepted = Accepted(director_epoch=2, sequence=5, digest=sha256(signed()).hexdigest())

    def of(
        name: str,
        outcome: Outcome,
        payload: bytes,
        *,
        before: Accepted | None = accepted,
        now_ms: int | None = NOW_MS,
    ) -> Vector:
        return AssignmentVector(
            name=name,
            outcome=outcome,
            authority=AUTHORITY,
            fleet="demo",
            device=DEVICE,
            accepted=before,
            now_ms=now_ms,
            payload=payload,
        )

    late = NOW_MS + 1000
    stolen = Accepted(director_epoch=1, sequence=2**53, digest="0" * 64)
    return [
        of("the first", "accepted", signed(), before=None),
        of("the next", "accepted", signed(sequence=6)),
        of("with a content key", "accepted", signed(sequence=6, keys={"ab" * 32: contents.BOX})),
        of("a repetition", "accepted", signed()),
        of("a repetition after it ran out", "accepted", signed(), now_ms=late),
        of("time is not known yet", "accepted", signed(), before=None, now_ms=None),
        of("a new epoch overtakes any number", "accepted", signed(sequence=1), before=stolen),
        of("the last moment", "accepted", signed(sequence=6), now_ms=late - 1),
        of("run out", "expired", signed(sequence=6), now_ms=late),
        of("an older number", "rollback", signed(sequence=4)),
        of("the same number with other bytes", "rollback", signed(issued_ms=NOW_MS + 1)),
        of("an older epoch", "rollback", signed(director_epoch=1, sequence=9)),
        of("an epoch that is not known", "mismatch", signed(director_epoch=3, sequence=9)),
        of("of another device", "mismatch", signed(device=OTHER, sequence=6)),
        of("of another fleet", "mismatch", signed(fleet="other", sequence=6)),
        of("a stranger's", "unsigned", signed(by=STRANGER, sequence=6)),
        of("on another device's topic", "unsigned", signed(at=ASSIGNMENT.at(OTHER).logical)),
        of("on another channel", "unsigned", signed(at=FRESH.at(DEVICE).logical)),
        of("signed, of a newer version", "unsupported", signed(v=2)),
        of("signed, without a number", "malformed", sign_document(DIRECTOR, topic, AUTHORITY)),
        of("number nought", "malformed", signed(sequence=0)),
        of("a target with a path", "malformed", signed(slots=_slots("models/../x.json"))),
        of("a target with a line feed", "malformed", signed(slots=_slots("models/x.json\n"))),
        of("nothing", "malformed", b""),
    ]


def _slots(target: str) -> dict[str, Assigned]:
    return {"motion": Assigned(target=target, digest="0" * 64, counter=1)}


def signed_times() -> list[Vector]:
    """Signed time for a nonce."""
    plain = Fresh(
        device=DEVICE, nonce=NONCE, director_epoch=2, sequence=5, digest=None, now_ms=NOW_MS
    )
    topic = FRESH.at(DEVICE).logical

    def of(
        name: str,
        outcome: Outcome,
        by: SigningKey = DIRECTOR,
        at: str = topic,
        **changes: object,
    ) -> Vector:
        said = msgspec.structs.replace(plain, **changes)
        payload = sign_document(by, at, said)
        return FreshVector(
            name=name,
            outcome=outcome,
            authority=AUTHORITY,
            device=DEVICE,
            nonce=NONCE,
            payload=payload,
        )

    return [
        of("an answer", "accepted"),
        of("another nonce", "rollback", nonce="f" * 32),
        of("an older epoch", "rollback", director_epoch=1),
        of("an epoch that is not known", "mismatch", director_epoch=3),
        of("of another device", "mismatch", device=OTHER),
        of("a stranger's", "unsigned", STRANGER),
        of("on another topic", "unsigned", at=FRESH.at(OTHER).logical),
        of("a newer version", "unsupported", v=2),
        of("a time before 1970", "malformed", now_ms=-1),
    ]


def acknowledgements() -> list[Vector]:
    """Cumulative acknowledgements of reports."""
    plain = Ack(device=DEVICE, boot=str(BOOT), sequence=9)
    topic = ACK.at(DEVICE).logical

    def of(name: str, outcome: Outcome, payload: bytes) -> Vector:
        return AckVector(
            name=name, outcome=outcome, authority=AUTHORITY, device=DEVICE, payload=payload
        )

    other = msgspec.structs.replace(plain, device=OTHER)
    newer = msgspec.structs.replace(plain, v=2)
    broken = msgspec.structs.replace(plain, boot="7")
    return [
        of("an acknowledgement", "accepted", sign_document(DIRECTOR, topic, plain)),
        of("a stranger's", "unsigned", sign_document(STRANGER, topic, plain)),
        of("on another topic", "unsigned", sign_document(DIRECTOR, ACK.at(OTHER).logical, plain)),
        of("of another device", "mismatch", sign_document(DIRECTOR, topic, other)),
        of("a newer version", "unsupported", sign_document(DIRECTOR, topic, newer)),
        of("no boot id", "malformed", sign_document(DIRECTOR, topic, broken)),
    ]


def release(counter: int, **changes: object) -> Release:
    """Return a small manifest."""
    plain = Release(
        target=f"models/motion/v{counter}.json",
        family="motion",
        version=f"v{counter}",
        slot="motion",
        counter=counter,
        created_ms=NOW_MS,
        variants=(
            Variant(
                name="int8",
                runtime="onnx",
                model=describe_artifact(b"model"),
                inputs=(Tensor(name="x", dtype="float32", shape=(1, 6, 128)),),
                outputs=(Tensor(name="y", dtype="float32", shape=(1, 7)),),
            ),
        ),
        golden=describe_artifact(b"golden"),
    )
    return msgspec.structs.replace(plain, **changes)


def encrypted(base: str | None = None) -> bytes:
    """Return the manifest of an encrypted release: no hash of a chunk of what is inside."""
    stream = describe_artifact(contents.STREAM)
    kind = "sealed-patch-zstd" if base else "sealed-full"
    source = Source(**msgspec.structs.asdict(stream), kind=kind, base=base)
    inside = msgspec.json.decode(written(describe_artifact(contents.CONTENT)))
    golden = {**inside, "chunks": "", "sources": [lean(source)]}
    plain = msgspec.json.decode(written(release(5)))
    return msgspec.json.encode({**plain, "golden": golden})


def releases() -> list[Vector]:
    """Manifests for a slot."""
    plain, old = release(5), release(2)
    manifest, back = written(plain), written(old)
    digest = sha256(manifest).hexdigest()
    permits = release(5, rollback_to=(sha256(back).hexdigest(),))
    pi = msgspec.structs.replace(plain.variants[0], hardware=("raspberry-pi-5",))

    def of(
        name: str,
        outcome: Outcome,
        content: bytes,
        *,
        target: str = "models/motion/v5.json",
        counter: int = 5,
        named: str | None = None,
        slot: str = "motion",
        running: Release | None = None,
        floor: int = 0,
        permitted: bool = False,
    ) -> Vector:
        ran = None if running is None else written(running)
        return ReleaseVector(
            name=name,
            outcome=outcome,
            manifest=content,
            assigned=Assigned(
                target=target, digest=named or sha256(content).hexdigest(), counter=counter
            ),
            slot=slot,
            hardware="generic-linux",
            running=ran,
            running_digest=None if ran is None else sha256(ran).hexdigest(),
            floor=floor,
            permitted=permitted,
        )

    older = {"target": old.target, "counter": 2}
    return [
        of("a release", "accepted", manifest),
        of("at the floor", "accepted", manifest, floor=5),
        of("older, and permitted", "accepted", back, running=permits, floor=5, **older),
        of("older, and running already", "accepted", back, running=old, floor=5, **older),
        of("older, with a permit", "accepted", back, floor=5, permitted=True, **older),
        of("encrypted, with its full stream", "accepted", encrypted()),
        of("encrypted, with deltas only", "malformed", encrypted(base="ab" * 32)),
        of("below the floor", "rollback", manifest, floor=6),
        of("a permit for another slot's", "mismatch", manifest, slot="sound", permitted=True),
        of("older, not permitted", "rollback", back, running=plain, floor=5, **older),
        of("of another digest", "corrupt", manifest, named="0" * 64),
        of("a flipped bit", "corrupt", flipped(manifest, b"int8"), named=digest),
        of("another counter", "mismatch", manifest, counter=6),
        of("another target", "mismatch", manifest, target="models/motion/v6.json"),
        of("another slot", "mismatch", manifest, slot="sound"),
        of("other hardware", "mismatch", written(release(5, variants=(pi,)))),
        of("a newer version", "unsupported", manifest.replace(b'"v":1', b'"v":2', 1)),
        of("a target of another family", "malformed", manifest.replace(b'"motion"', b'"sound"', 1)),
        of("a chunk hash too few", "malformed", manifest.replace(_hash(plain), b"", 1)),
        of("no variant", "malformed", _without(manifest, "variants")),
        of("no JSON", "malformed", b"model"),
    ]


def _hash(of: Release) -> bytes:
    return of.golden.chunks.encode()


def _without(manifest: bytes, member: str) -> bytes:
    said = msgspec.json.decode(manifest)
    said[member] = []
    return msgspec.json.encode(said)


def chunks() -> list[Vector]:
    """Chunks of an artifact of two and a half chunks."""
    body = bytes(range(256)) * 10
    artifact = describe_artifact(body, 1024)

    def of(
        name: str, outcome: Outcome, index: int, content: bytes, which: Artifact = artifact
    ) -> Vector:
        return ChunkVector(name=name, outcome=outcome, artifact=which, index=index, content=content)

    return [
        of("the first", "accepted", 0, body[:1024]),
        of("the last, which is short", "accepted", 2, body[2048:]),
        of("another byte", "corrupt", 0, b"\1" + body[1:1024]),
        of("a byte too few", "corrupt", 0, body[:1023]),
        of("a byte too many", "corrupt", 2, body[2048:] + b"\0"),
        of("nothing", "corrupt", 0, b""),
        of("after the end", "corrupt", 3, b""),
        of("before the start", "corrupt", -1, body[2048:]),
    ]


def pieces() -> list[Vector]:
    """Numbered pieces."""
    good = split_file(b"8 bytes.", b"content")[0].encode()

    def of(name: str, outcome: Outcome, payload: bytes) -> Vector:
        return PieceVector(name=name, outcome=outcome, payload=payload)

    head = good[:12]
    return [
        of("a piece", "accepted", good),
        of("an empty one", "accepted", good[:20]),
        of("of the largest size", "accepted", good[:20] + bytes(CHUNK_BYTES)),
        of("over the largest size", "malformed", good[:20] + bytes(CHUNK_BYTES + 1)),
        of("cut in its head", "malformed", good[:19]),
        of("another magic", "malformed", b"FFX" + good[3:]),
        of("another version", "malformed", b"FFP\2" + good[4:]),
        of("its own number of pieces", "malformed", head + b"\0\0\0\1\0\0\0\1"),
        of("of no pieces", "malformed", head + bytes(8)),
        of("of too many pieces", "malformed", head + b"\0\0\0\0\1\0\0\1"),
    ]


def parcels() -> list[Vector]:
    """Documents with an attachment."""
    document, attachment = written(AUTHORITY), b"attachment"
    good = pack_parcel(document, attachment)

    def of(name: str, outcome: Outcome, payload: bytes, named: bytes = attachment) -> Vector:
        return ParcelVector(
            name=name, outcome=outcome, payload=payload, digest=sha256(named).hexdigest()
        )

    return [
        of("a parcel", "accepted", good),
        of("without attachment", "accepted", pack_parcel(document, b""), b""),
        of("another attachment", "corrupt", good + b"!"),
        of("a cut attachment", "corrupt", good[:-1]),
        of("cut in its document", "malformed", good[: 8 + len(document) - 1]),
        of("cut in its head", "malformed", good[:7]),
        of("another magic", "malformed", b"FFP" + good[3:]),
        of("another version", "malformed", b"FFD\2" + good[4:]),
        of("a document of 4 GiB", "malformed", good[:4] + b"\xff" * 4 + good[8:]),
    ]


FILES = {
    "topic": topics,
    "report": reports,
    "document": documents,
    "assignment": assignments,
    "fresh": signed_times,
    "ack": acknowledgements,
    "release": releases,
    "chunk": chunks,
    "piece": pieces,
    "parcel": parcels,
    "sealed": contents.sealed,
    "bundle": contents.bundles,
}


def render(kind: str) -> bytes:
    """Return the file of one kind, readable and ending in a line feed."""
    about = (FILES[kind].__doc__ or "").strip()
    file = VectorFile(about=about, vectors=tuple(FILES[kind]()))
    return msgspec.json.format(written(file), indent=1) + b"\n"


if __name__ == "__main__":
    for kind in FILES:
        (FOLDER / f"{kind}.json").write_bytes(render(kind))
