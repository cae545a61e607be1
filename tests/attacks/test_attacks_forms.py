"""Rows 7, 16 and 20: other forms of what was honestly signed, and of who signed it."""

import json

import msgspec
import pytest
from nacl.signing import SigningKey, VerifyKey
from securesystemslib.exceptions import UnverifiedSignatureError, VerificationError
from tuf.api.metadata import Metadata, Root, Signature, Targets

from agent.contract.authority import AUTHORITY_TARGET, Authority
from agent.contract.belief import believe_assignment, believe_enrol_request
from agent.contract.codec import decode, encode
from agent.contract.enrolment import EnrolmentFile, SignedRequest
from agent.contract.envelope import (
    Boot,
    Stamp,
    check_report,
    open_document,
    sign_document,
    stamp_report,
)
from agent.contract.keys import Ed25519Key, Ed25519Signer
from agent.contract.marks import view_root
from agent.contract.messages import Event
from agent.contract.topics import ASSIGNMENT
from agent.errors import (
    ContractError,
    MalformedError,
    MismatchError,
    TrustError,
    UnsignedError,
)
from agent.identity.device_key import DeviceKey
from agent.identity.enrol import build_request
from agent.update.trust import NotRefreshed, error_of
from tests.signed_fleet import NOW_MS, SignedFleet, advance, make_assignment, pinned, run

ORDER = 2**252 + 27742317777372353535851937790883648493
SMALL_ORDER = (
    "0000000000000000000000000000000000000000000000000000000000000000",
    "0100000000000000000000000000000000000000000000000000000000000000",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
)
DEVICE = "d-aaaaaaaaaaaaaaaa"
KEY = SigningKey(bytes(range(32)))
TOPIC = ASSIGNMENT.at(DEVICE).logical


def malleable(signature: bytes) -> bytes:
    """The same signature with the order of the group added: RFC 8032 refuses it."""
    number = int.from_bytes(signature[32:], "little") + ORDER
    return signature[:32] + number.to_bytes(32, "little")


def test_attack_16_no_signature_has_a_second_form():
    stamp = stamp_report(KEY, "up/d-1/evt/alarm", Boot(1, "0" * 16), 1, b"{}")
    twin = Stamp(boot=stamp.boot, sequence=1, signature=malleable(stamp.signature))
    with pytest.raises(UnsignedError):
        check_report(KEY.verify_key, "up/d-1/evt/alarm", twin, b"{}")
    document = msgspec.json.decode(sign_document(KEY, TOPIC, make_assignment(DEVICE)))
    document["sig"] = malleable(bytes.fromhex(document["sig"])).hex()
    with pytest.raises(UnsignedError):
        open_document([KEY.verify_key], TOPIC, msgspec.json.encode(document))
    signer = Ed25519Signer(KEY)
    signed = bytes.fromhex(signer.sign(b"metadata").signature)
    other = Signature(signer.public_key.keyid, malleable(signed).hex())
    with pytest.raises((UnverifiedSignatureError, VerificationError)):
        signer.public_key.verify_signature(other, b"metadata")


@pytest.mark.parametrize("public", SMALL_ORDER)
def test_attack_16_a_key_that_believes_everything_believes_nothing(public):
    forged = {"v": 1, "kid": public[:16], "sig": public + "00" * 32, "body": "{}"}
    with pytest.raises(UnsignedError):
        open_document([VerifyKey(bytes.fromhex(public))], TOPIC, msgspec.json.encode(forged))
    key = Ed25519Key("0" * 64, "ed25519", "ed25519", {"public": public})
    with pytest.raises((UnverifiedSignatureError, VerificationError)):
        key.verify_signature(Signature("0" * 64, public + "00" * 32), b"metadata")


def test_attack_16_what_is_verified_of_a_doubled_member_is_what_is_read():
    document = sign_document(KEY, TOPIC, make_assignment(DEVICE)).decode()
    evil = msgspec.json.encode(encode(make_assignment("d-evil")).decode()).decode()
    authority = Authority(
        fleet="demo",
        director_epoch=1,
        director_keys=(bytes(KEY.verify_key).hex(),),
        enrolment_keys=("0" * 64,),
    )
    for doubled in (
        document.replace('"body":', f'"body":{evil},"body":'),
        f'{document[:-1]},"body":{evil}}}',
    ):
        try:
            believed = believe_assignment(
                doubled.encode(), authority=authority, fleet="demo", device=DEVICE,
                accepted=None, now_ms=NOW_MS,
            )  # fmt: skip
        except UnsignedError:
            continue
        assert believed.assignment.device == DEVICE


def test_attack_10_marks_and_tuf_read_doubled_members_alike(tmp_path):
    """Two parsers look at a root; what one counts must be what the other believes."""
    root = pinned(SignedFleet(tmp_path / "fleet")).root
    said = json.loads(root)["signed"]
    one = json.dumps(next(iter(said["keys"].values())))
    for name in ("keys", "roles", "version", "expires"):
        first = {"keys": "{}", "roles": "{}", "version": "7", "expires": '"2001-01-01T00:00:00Z"'}
        text = root.decode().replace(f'"{name}":', f'"{name}": {first[name]}, "{name}":', 1)
        assert text != root.decode()
        view, tuf = view_root(text.encode()), Metadata[Root].from_bytes(text.encode()).signed
        assert view.version == tuf.version == 1
        assert view.publics == {k: key.keyval["public"] for k, key in tuf.keys.items()}
        assert view.expires_ms == int(tuf.expires.timestamp() * 1000)
    keyid = next(iter(said["keys"]))
    doubled = root.decode().replace(f'"{keyid}":', f'"{keyid}": {one}, "{keyid}":', 1)
    publics = view_root(doubled.encode()).publics
    tuf = Metadata[Root].from_bytes(doubled.encode()).signed
    assert publics == {k: key.keyval["public"] for k, key in tuf.keys.items()}


@pytest.mark.parametrize(
    "body",
    [
        '{"id":"\\ud800","type":"alarm","ts":1,"up":1}',
        '{"id":"00000000000000000000000000000000","type":"alarm","ts":NaN,"up":1}',
        '{"id":"00000000000000000000000000000000","type":"alarm","ts":1e400,"up":1}',
        '{"id":"00000000000000000000000000000000","type":"alarm","ts":' + "9" * 400 + ',"up":1}',
        '{"id":"00000000000000000000000000000000","type":"alarm","ts":-1,"up":1}',
        '{"id":"00000000000000000000000000000000\\n","type":"alarm","ts":1,"up":1}',
        '{"id":"00000000000000000000000000000000","type":"alarm\\n","ts":1,"up":1}',
        '{"id":"0000000000000000000000000000000\u0660","type":"alarm","ts":1,"up":1}',
        '{"id":"00000000000000000000000000000000","type":"alarm","ts":1,"up":1,"slot":"m\u043etion"}',
        "[" * 100_000,
        '{"a":' * 20_000,
    ],
)
def test_attack_16_no_number_or_name_is_read_that_could_mean_something_else(body):
    with pytest.raises(ContractError):
        decode(Event, body.encode())


def test_attack_20_a_request_counts_under_its_exact_text_only():
    file = EnrolmentFile(
        fleet="demo",
        prefix="ff/v1",
        enrol_url="mqtt://127.0.0.1:1",
        root_digest="0" * 64,
        token="1" * 64,
        expires_ms=2**50,
    )
    key = DeviceKey(SigningKey.generate())
    asking = build_request(file, key, "ab" * 16, hardware="generic-linux")
    frame = decode(SignedRequest, asking.payload)
    believe_enrol_request(asking.payload)
    for body in (frame.body + " ", frame.body.replace(":", ": ", 1), f'{frame.body[:-1]},"x":1}}'):
        with pytest.raises(UnsignedError):
            believe_enrol_request(encode(msgspec.structs.replace(frame, body=body)))
    for field in ("device_sig", "token_sig"):
        twisted = malleable(bytes.fromhex(getattr(frame, field))).hex()
        with pytest.raises((UnsignedError, MalformedError)):
            believe_enrol_request(encode(msgspec.structs.replace(frame, **{field: twisted})))


def test_attack_07_the_authority_of_a_second_fleet_of_the_same_people_directs_nobody_here(
    tmp_path,
):
    """Whoever stole this fleet's online keys serves what its people signed for another."""
    fleet = SignedFleet(tmp_path / "fleet")
    state = advance(pinned(fleet), fleet.repository.bundle(0, ())).state
    thief = Ed25519Signer.generate()
    theirs = msgspec.structs.replace(
        fleet.repository.authority(),
        fleet="other",
        director_epoch=7,
        director_keys=(thief.public_hex,),
    )
    targets = Metadata[Targets].from_bytes(fleet.repository.targets_metadata()).signed
    signed = SignedFleet.copy(fleet, tmp_path / "other")
    signed.publish({AUTHORITY_TARGET: encode(theirs)})
    files = signed.repository.bundle(1, ())
    assert Metadata[Targets].from_bytes(files["targets.json"]).signed.version > targets.version
    result = run(state, files)
    assert isinstance(result, NotRefreshed)
    assert isinstance(error_of(result.refusal), MismatchError)
    kept = result.state or state
    assert kept.who_directs() == state.who_directs()


@pytest.mark.parametrize("text", [[], {}, 7, None, True, "", "zz" * 64, "0" * 128])
@pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets"])
def test_attack_25_a_signature_that_is_none_is_a_refusal_and_no_crash(tmp_path, role, text):
    fleet = SignedFleet(tmp_path / "fleet")
    files = fleet.repository.bundle(0, ())
    said = json.loads(files[f"{role}.json"])
    said["signatures"][0]["sig"] = text
    result = run(pinned(fleet), {**files, f"{role}.json": json.dumps(said).encode()})
    assert isinstance(result, NotRefreshed)
    assert isinstance(error_of(result.refusal), TrustError | ContractError)
