"""No input bytes make the contract raise anything but ``ContractError`` or ``TrustError``."""

import inspect
import json
from collections.abc import Callable
from hashlib import sha256

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from nacl.signing import SigningKey

from agent.contract import envelope, messages
from agent.contract.authority import Authority, Permit, Permits
from agent.contract.belief import (
    ENROL_CONTEXT,
    Accepted,
    believe_ack,
    believe_assignment,
    believe_enrol_request,
    believe_fresh,
    believe_release,
    believe_task,
)
from agent.contract.codec import Versioned, decode, encode
from agent.contract.enrolment import (
    EnrolmentFile,
    EnrolReply,
    EnrolRequest,
    SealedReply,
    SignedRequest,
)
from agent.contract.envelope import (
    Boot,
    Document,
    Stamp,
    check_report,
    device_id,
    key_id,
    open_document,
    sign_document,
    stamp_report,
)
from agent.contract.frames import Piece, pack_parcel, split_file, unpack_parcel
from agent.contract.grants import read_grant
from agent.contract.histogram import LogHistogram
from agent.contract.manifest import Release, decode_release, encode_release
from agent.contract.marks import require_distinct_keys, view_root
from agent.contract.messages import (
    Ack,
    ChunkRefusal,
    ChunkRequest,
    ClientCertificate,
    Event,
    Fresh,
    FreshRequest,
    Grant,
    GrantRequest,
    Inventory,
    ManagerPresence,
    MetaBundle,
    MetaRequest,
    Presence,
    Reported,
    SlotReport,
)
from agent.contract.rounds import Task, TaskAnswer, UploadRequest
from agent.contract.telemetry import Histogram, Prediction, Telemetry, Window
from agent.contract.tensors import decode_message
from agent.contract.topics import (
    ACK,
    ASSIGNMENT,
    CHANNELS,
    ENROL_REPLY,
    ENROL_REQUEST,
    FRESH,
    ROUND_OFFER,
    Topics,
)
from agent.errors import ContractError, MalformedError, TrustError, UnsupportedError
from tests.signed_fleet import NOW_MS, assign, device_key, make_assignment, make_release

KEY = SigningKey(b"d" * 32)
DEVICE = device_id(device_key().verify_key)
PUBLIC = bytes(KEY.verify_key).hex()
AUTHORITY = Authority(
    fleet="demo", director_epoch=1, director_keys=(PUBLIC,), enrolment_keys=(PUBLIC,)
)
NONCE, DIGEST, BOOT = "ab" * 16, "0" * 64, Boot.parse("3-00112233445566ff")
TOPICS = Topics(fleet="demo")
RELEASE = make_release()

SAMPLES: tuple[Versioned, ...] = (
    Presence(s="online", boot=str(BOOT), epoch=1),
    Inventory(
        rev=1, ts=1, hardware="generic-linux", arch="x", system="x", python="x", agent="x",
        memory_bytes=1,
    ),
    Reported(rev=1, ts=1, slots={"motion": SlotReport(current=DIGEST)}),
    Telemetry(
        ts=1, up=1, windows=(
            Window(slot="motion", release=DIGEST, number=1, opened_ms=1, closed_ms=2),
        ),
    ),
    Prediction(ts=1, slot="motion", release=DIGEST, label="walk", confidence=0.5, latency_us=1),
    Event(id=NONCE, type="gap", ts=1, up=1, boot=str(BOOT), first=1, last=2),
    make_assignment(DEVICE),
    FreshRequest(nonce=NONCE),
    FreshRequest(nonce=NONCE, tls_key="ab" * 32, certificate="cd" * 32),
    ClientCertificate(pem="-----BEGIN CERTIFICATE-----", issued_ms=1, expires_ms=2),
    Fresh(device=DEVICE, nonce=NONCE, director_epoch=1, sequence=1, digest=None, now_ms=NOW_MS),
    Ack(device=DEVICE, boot=str(BOOT), sequence=1),
    MetaRequest(id="0" * 16, root=1, targets=("models/motion/v1.json",)),
    MetaBundle(files={"timestamp.json": b"{}"}),
    ChunkRefusal(a=DIGEST, why="gone"),
    ChunkRequest(a=DIGEST, r=((0, 1),)),
    GrantRequest(a=DIGEST),
    Grant(device="d-1", a=DIGEST, url="https://f", issued_ms=1, expires_ms=2),
    ChunkRequest(a=DIGEST, g=True, heard=7, r=((7, 1),)),
    ManagerPresence(s="online", epoch=1),
    EnrolRequest(
        fleet="demo", nonce=NONCE, device_key=PUBLIC, token_key=PUBLIC, hardware="generic-linux"
    ),
    SignedRequest(body="{}", device_sig="0" * 128, token_sig="0" * 128),
    EnrolReply(device=DEVICE, nonce=NONCE, fleet="demo", status="pending"),
    SealedReply(metadata={"1.root.json": b"{}"}, document="{}"),
    Task(
        device=DEVICE, run="run-1", task="task-1", kind="train", backbone=DIGEST,
        digest=sha256(b"").hexdigest(), lasts_seconds=1,
    ),
    TaskAnswer(run="run-1", task="task-1", outcome="done"),
    UploadRequest(task="task-1", a="ab" * 32, r=((0, 16), (20, 1))),
    EnrolmentFile(
        fleet="demo", prefix="ff/v1", enrol_url="mqtt://x", root_digest=DIGEST, token=DIGEST,
        expires_ms=1,
    ),
    AUTHORITY,
    Permits(
        fleet="demo",
        permits=(Permit(release=DIGEST, slot="motion", devices=(DEVICE,), expires_ms=1),),
    ),
    RELEASE,
    Document(kid="0", sig="0", body="{}"),
    Accepted(director_epoch=1, sequence=1, digest=DIGEST),
)  # fmt: skip

KINDS = tuple(type(sample) for sample in SAMPLES)

scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
json_values = st.recursive(
    scalars
    | st.sampled_from([DEVICE, DIGEST, NONCE, "demo", "motion", "demo\n", "\x00", -1, 2**64]),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=8,
)
quick = settings(max_examples=60, deadline=None)


@st.composite
def mutated(draw: st.DrawFn, valid: st.SearchStrategy[bytes]) -> bytes:
    """Valid bytes after a few flips, cuts and insertions."""
    content = bytearray(draw(valid))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(content)))
        match draw(st.sampled_from(["flip", "cut", "insert", "repeat"])):
            case "flip" if at < len(content):
                content[at] ^= draw(st.integers(1, 255))
            case "cut":
                del content[at : at + draw(st.integers(1, 40))]
            case "insert":
                content[at:at] = draw(st.binary(max_size=9))
            case _:
                content[at:at] = content[: draw(st.integers(0, 40))]
    return bytes(content)


@st.composite
def respelled(draw: st.DrawFn, samples: st.SearchStrategy[msgspec.Struct]) -> bytes:
    """A valid message with some members replaced by any JSON at all."""
    plain = json.loads(encode(draw(samples)))
    names = sorted(plain)
    for name in draw(st.lists(st.sampled_from(names), max_size=3)):
        plain[name] = draw(json_values)
    for name in draw(st.lists(st.sampled_from(names), max_size=1)):
        plain.pop(name, None)
    return json.dumps(plain).encode(errors="surrogatepass")


def hostile(*samples: msgspec.Struct) -> st.SearchStrategy[bytes]:
    """Bytes of every kind that somebody could send instead of one of these messages."""
    chosen = st.sampled_from(samples)
    return (
        st.binary(max_size=200)
        | json_values.map(lambda value: json.dumps(value).encode(errors="surrogatepass"))
        | mutated(chosen.map(encode))
        | respelled(chosen)
    )


def survives(call: Callable[[], object]) -> None:
    try:
        call()
    except (ContractError, TrustError):
        return


def signed_anyway(topic: str, body: bytes) -> bytes:
    """A document around any text at all, with a good signature."""
    text = body.decode(errors="replace")
    covered = envelope._covered(envelope.DOCUMENT_CONTEXT, topic, "", text.encode())
    sig = KEY.sign(covered).signature.hex()
    return encode(Document(kid=key_id(KEY.verify_key), sig=sig, body=text))


def test_every_message_type_is_fuzzed():
    kinds = {
        kind
        for _name, kind in inspect.getmembers(messages, inspect.isclass)
        if issubclass(kind, Versioned) and kind is not Versioned
    }
    assert kinds <= {type(sample) for sample in SAMPLES}


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: type(sample).__name__)
def test_a_message_is_its_own_round_trip(sample):
    content = encode(sample)
    assert decode(type(sample), content) == sample
    assert encode(decode(type(sample), content)) == content
    with pytest.raises(UnsupportedError):
        decode(type(sample), content.replace(b'"v":1', b'"v":2', 1))
    with pytest.raises(MalformedError):
        decode(type(sample), content, limit=len(content) - 1)


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: type(sample).__name__)
@quick
@given(data=st.data())
def test_no_bytes_break_a_message_decoder(sample, data):
    survives(lambda: decode(type(sample), data.draw(hostile(sample))))


@quick
@example(b"[" * 100_000)
@example(b'"\\ud800"')
@given(st.binary(max_size=300))
def test_no_bytes_break_any_decoder(payload):
    for kind in KINDS:
        survives(lambda kind=kind: decode(kind, payload))
    survives(lambda: Piece.decode(payload))
    survives(lambda: Piece.decode(b"FFP\x01" + payload))
    survives(lambda: unpack_parcel(payload))
    survives(lambda: unpack_parcel(b"FFD\x01" + payload))
    survives(lambda: decode_release(payload))
    survives(lambda: view_root(payload))
    survives(lambda: decode_message(payload))


@quick
@example("Bearer d-1." + "A" * 20_000)
@example("Bearer d-1.é=")
@given(st.one_of(st.text(max_size=200), st.text(max_size=200).map("Bearer d-1.{}".format)))
def test_no_header_breaks_the_reader_of_grants(shown):
    key = "ab" * 32
    authority = Authority(
        fleet="demo", director_epoch=1, director_keys=(key,), enrolment_keys=(key,)
    )
    survives(lambda: read_grant(shown, authority=authority, digest=DIGEST, now_ms=1))


@quick
@given(st.binary(max_size=300), st.binary(min_size=8, max_size=8), st.integers(1, 70))
def test_pieces_and_parcels_are_their_own_round_trip(content, name, piece_bytes):
    pieces = [Piece.decode(p.encode()) for p in split_file(name, content, piece_bytes)]
    assert b"".join(p.content for p in pieces) == content
    assert [p.index for p in pieces] == list(range(pieces[0].total))
    assert unpack_parcel(pack_parcel(content, name)) == (content, name)


def test_a_parcel_that_claims_more_than_there_is_is_refused():
    parcel = pack_parcel(b"document", b"")
    for cut in range(1, len(parcel)):
        with pytest.raises(MalformedError):
            unpack_parcel(parcel[:-cut])


@quick
@given(mutated(st.binary(max_size=60).map(lambda c: split_file(b"8" * 8, c)[0].encode())))
def test_no_mutation_breaks_a_piece_or_a_parcel(payload):
    survives(lambda: Piece.decode(payload))
    survives(lambda: unpack_parcel(payload.replace(b"FFP", b"FFD")))


names = st.from_regex(r"[a-z0-9][a-z0-9-]{1,10}", fullmatch=True)


@quick
@given(st.sampled_from([*CHANNELS, ENROL_REQUEST, ENROL_REPLY]), names, names)
def test_a_topic_is_its_own_round_trip(channel, who, name):
    address = channel.at(who, name if "{}" in channel.path else None)
    assert TOPICS.read(TOPICS.write(address)) == address


@quick
@example("ff/v1/demo/up/d-7\n/presence")
@example("ff/v1/demo/enrol/req/+")
@given(
    st.text(max_size=300)
    | st.lists(
        st.sampled_from(["ff", "v1", "demo", "up", "dn", "d-7", "tele", "art", "x", "#", "+", ""]),
        max_size=9,
    ).map("/".join)
)
def test_no_text_breaks_the_topic_reader(topic):
    try:
        address = TOPICS.read(topic)
    except MalformedError:
        return
    assert TOPICS.write(address) == topic


properties = st.lists(
    st.tuples(st.sampled_from(["boot", "seq", "sig", "x"]), st.text(max_size=140)), max_size=5
)


@quick
@example([("boot", str(BOOT)), ("seq", "9" * 5000), ("sig", "00" * 64)])
@example([("boot", str(BOOT) + "\n"), ("seq", "1"), ("sig", "00" * 64)])
@given(properties)
def test_no_properties_break_the_stamp_reader(pairs):
    survives(lambda: Stamp.read(pairs))


@quick
@given(st.integers(0, 2**63 - 1), st.binary(max_size=80), st.text(max_size=30))
def test_a_stamp_is_its_own_round_trip_and_covers_everything(sequence, payload, topic):
    stamp = stamp_report(KEY, topic, BOOT, sequence, payload)
    again = Stamp.read(stamp.properties())
    assert again == stamp
    check_report(KEY.verify_key, topic, again, payload)
    for other_topic, other_payload in ((topic + "x", payload), (topic, payload + b"x")):
        with pytest.raises(TrustError):
            check_report(KEY.verify_key, other_topic, again, other_payload)


BELIEFS: dict[str, tuple[msgspec.Struct, str, Callable[[bytes], object]]] = {
    "assignment": (
        make_assignment(DEVICE),
        ASSIGNMENT.at(DEVICE).logical,
        lambda payload: believe_assignment(
            payload, authority=AUTHORITY, fleet="demo", device=DEVICE, accepted=None, now_ms=NOW_MS
        ),
    ),
    "fresh": (
        Fresh(device=DEVICE, nonce=NONCE, director_epoch=1, sequence=1, digest=None, now_ms=NOW_MS),
        FRESH.at(DEVICE).logical,
        lambda payload: believe_fresh(payload, authority=AUTHORITY, device=DEVICE, nonce=NONCE),
    ),
    "ack": (
        Ack(device=DEVICE, boot=str(BOOT), sequence=1),
        ACK.at(DEVICE).logical,
        lambda payload: believe_ack(payload, authority=AUTHORITY, device=DEVICE),
    ),
}


@pytest.mark.parametrize("what", BELIEFS)
@quick
@given(data=st.data())
def test_no_bytes_break_a_belief_not_even_signed_ones(what, data):
    sample, topic, believe = BELIEFS[what]
    good = sign_document(KEY, topic, sample)
    believe(good)
    survives(lambda: believe(data.draw(mutated(st.just(good)))))
    survives(lambda: believe(signed_anyway(topic, data.draw(hostile(sample)))))
    survives(lambda: open_document([KEY.verify_key], topic, data.draw(st.binary(max_size=99))))


@quick
@given(data=st.data())
def test_no_bytes_break_the_belief_in_a_task(data):
    topic = ROUND_OFFER.at(DEVICE, "run-1").logical
    task = next(sample for sample in SAMPLES if isinstance(sample, Task))

    def believe(payload: bytes) -> object:
        return believe_task(payload, authority=AUTHORITY, device=DEVICE, run="run-1")

    good = pack_parcel(sign_document(KEY, topic, task), b"")
    believe(good)
    survives(lambda: believe(data.draw(mutated(st.just(good)))))
    survives(lambda: believe(pack_parcel(signed_anyway(topic, data.draw(hostile(task))), b"")))


@quick
@given(data=st.data())
def test_no_bytes_break_the_belief_in_an_enrolment_request(data):
    request = next(sample for sample in SAMPLES if isinstance(sample, EnrolRequest))

    def signed(body: bytes) -> bytes:
        text = body.decode(errors="replace")[:4096]
        sig = KEY.sign(ENROL_CONTEXT + text.encode()).signature.hex()
        return encode(SignedRequest(body=text, device_sig=sig, token_sig=sig))

    assert believe_enrol_request(signed(encode(request))) == request
    survives(lambda: believe_enrol_request(signed(data.draw(hostile(request)))))
    survives(lambda: believe_enrol_request(data.draw(mutated(st.just(signed(encode(request)))))))


@quick
@given(data=st.data())
def test_no_manifest_bytes_break_the_belief_in_a_release(data):
    manifest = data.draw(hostile(RELEASE) | mutated(st.just(encode_release(RELEASE)[0])))
    wish = msgspec.structs.replace(assign(RELEASE), digest=sha256(manifest).hexdigest())

    def believe() -> Release:
        return believe_release(
            manifest,
            wish,
            slot="motion",
            hardware="generic-linux",
            running=None,
            running_digest=None,
            floor=0,
        )

    survives(believe)


@quick
@given(json_values, json_values, json_values)
def test_no_root_breaks_the_key_checks(version, keys, roles):
    root = {"signed": {"version": version, "expires": "2030-01-01T00:00:00Z", "keys": keys}}
    root["signed"]["roles"] = roles
    content = json.dumps(root).encode(errors="surrogatepass")
    survives(lambda: require_distinct_keys(content))


@quick
@given(
    st.lists(st.integers(), max_size=6).map(tuple), st.lists(st.integers(0), max_size=6).map(tuple)
)
def test_no_histogram_breaks_its_reader(buckets, counts):
    survives(lambda: LogHistogram.read(Histogram(buckets=buckets, counts=counts)))
