"""Row 20, and row 19 at the manager: strangers who want in, and rogues who answer them."""

from dataclasses import replace

import msgspec
import pytest
from nacl.public import SealedBox
from nacl.signing import SigningKey

from agent.contract.authority import Authority
from agent.contract.codec import encode
from agent.contract.enrolment import EnrolmentFile, EnrolReply, SealedReply
from agent.contract.envelope import sign_document
from agent.contract.keys import Ed25519Signer
from agent.contract.topics import ENROL_REPLY
from agent.errors import ConfigError, CorruptError, MismatchError, UnsignedError
from agent.identity.device_key import DeviceKey
from agent.identity.enrol import build_request, open_reply, read_enrolment_file
from agent.update.trust import pin_among
from fleet.signing.enrolment import Admitted, Refused, Token, judge_request, seal_reply
from tests.signed_fleet import NOW_MS, SignedFleet, advance

TOKEN = SigningKey(b"t" * 32)
KEY, OTHER = DeviceKey(SigningKey(b"k" * 32)), DeviceKey(SigningKey(b"o" * 32))
NONCE = "ab" * 16
GOOD = Token(uses_left=1, expires_ms=NOW_MS + 1)


@pytest.fixture(scope="module")
def fleet(tmp_path_factory):
    return SignedFleet(tmp_path_factory.mktemp("enrol") / "fleet")


def request(key: DeviceKey = KEY, token: SigningKey = TOKEN) -> bytes:
    file = EnrolmentFile(
        fleet="demo",
        prefix="ff/v1",
        enrol_url="mqtts://broker.example:8884",
        broker_ca="PEM",
        root_digest="0" * 64,
        token=bytes(token).hex(),
        expires_ms=NOW_MS + 1,
    )
    return build_request(file, key, NONCE, hardware="generic-linux").payload


def judge(payload: bytes, token: Token | None = GOOD, state=None, *, seen=False, nonce=NONCE):
    public = bytes(TOKEN.verify_key).hex()
    return judge_request(
        payload,
        fleet="demo",
        nonce=nonce,
        token=lambda key: token if key == public else None,
        known=lambda _device: state,
        seen=lambda _nonce: seen,
        now_ms=NOW_MS,
    )


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        pytest.param({"seen": True}, "answered before", id="a replay"),
        pytest.param({"nonce": "cd" * 16}, "answered before", id="a replay on another topic"),
        pytest.param({"token": replace(GOOD, uses_left=0)}, "used up", id="a used token"),
        pytest.param({"token": replace(GOOD, expires_ms=NOW_MS)}, "run out", id="an old token"),
        pytest.param({"payload": request(token=SigningKey(b"x" * 32))}, "token", id="no token"),
    ],
)
def test_attack_20_a_stranger_is_refused(arguments, why):
    assert isinstance(judge(request()), Admitted)
    refused = judge(**{"payload": request(), **arguments})
    assert isinstance(refused, Refused)
    assert why in refused.why


@pytest.mark.parametrize("who", ["device_sig", "token_sig"])
def test_attack_20_nobody_enrols_with_anothers_key(who):
    frame = msgspec.json.decode(request())
    theirs = msgspec.json.decode(request(OTHER))
    with pytest.raises(UnsignedError):
        judge(msgspec.json.encode({**frame, who: theirs[who]}))


def hear(payload: bytes, fleet: SignedFleet, key: DeviceKey = KEY) -> EnrolReply:
    def verify(files: dict[str, bytes]) -> Authority:
        return advance(pin_among(files, fleet.repository.root_digest()), files).state.who_directs()

    return open_reply(payload, key=key, nonce=NONCE, fleet="demo", verify_chain=verify)


def sealed_by(fleet: SignedFleet) -> bytes:
    answer = EnrolReply(
        device=KEY.device,
        nonce=NONCE,
        fleet="demo",
        status="enrolled",
        broker_url="mqtt://broker.example",
        username=KEY.device,
        password="secret",
    )
    return seal_reply(
        judge(request()).request,
        answer,
        key=fleet.online.enrolment,
        metadata=fleet.repository.bundle(0, ()),
    )


def test_attack_20_an_eavesdropper_learns_no_password(fleet):
    assert hear(sealed_by(fleet), fleet).password == "secret"
    assert b"secret" not in sealed_by(fleet)
    with pytest.raises(UnsignedError, match="not sealed to this device"):
        hear(sealed_by(fleet), fleet, OTHER)


def test_attack_20_a_rogue_reply_is_not_believed(fleet, tmp_path):
    with pytest.raises(CorruptError, match="pinned digest"):
        hear(sealed_by(SignedFleet(tmp_path / "rogue")), fleet)
    box, metadata = SealedBox(KEY.public.to_curve25519_public_key()), fleet.repository.bundle(0, ())
    reply = EnrolReply(device=KEY.device, nonce=NONCE, fleet="demo", status="enrolled")
    for signer, nonce, changes, reason in (
        (Ed25519Signer.generate(), NONCE, {}, UnsignedError),
        (fleet.online.director, NONCE, {}, UnsignedError),
        (fleet.online.enrolment, "cd" * 16, {}, UnsignedError),
        (fleet.online.enrolment, NONCE, {"nonce": "cd" * 16}, MismatchError),
        (fleet.online.enrolment, NONCE, {"device": OTHER.device}, MismatchError),
        (fleet.online.enrolment, NONCE, {"fleet": "other"}, MismatchError),
    ):
        said = msgspec.structs.replace(reply, **changes)
        document = sign_document(signer.signing, ENROL_REPLY.at(nonce).logical, said).decode()
        with pytest.raises(reason):
            hear(box.encrypt(encode(SealedReply(metadata=metadata, document=document))), fleet)


def test_attack_20_no_device_enrols_without_a_pinned_root():
    file = {"v": 1, "fleet": "demo", "prefix": "ff/v1", "enrol_url": "mqtt://x", "token": "0" * 64}
    with pytest.raises(ConfigError):
        read_enrolment_file(msgspec.json.encode({**file, "expires_ms": NOW_MS + 1}), now_ms=NOW_MS)


def test_attack_19_a_revoked_device_is_not_enrolled_again():
    refused = judge(request(), replace(GOOD, uses_left=9), "revoked")
    assert isinstance(refused, Refused)
    assert "revoked" in refused.why
