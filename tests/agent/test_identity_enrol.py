"""Enrolment between the real two sides: what a stranger may say, and what it may believe."""

from dataclasses import replace
from pathlib import Path

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
from agent.disk import Disk
from agent.errors import (
    ConfigError,
    CorruptError,
    EnrolmentError,
    MalformedError,
    MismatchError,
    NewerStateError,
    UnsignedError,
)
from agent.identity.device_key import DeviceKey
from agent.identity.enrol import (
    CREDENTIALS,
    Credentials,
    accept_reply,
    build_request,
    load_credentials,
    open_reply,
    read_enrolment_file,
    save_credentials,
)
from agent.update.trust import TRUST, load, pin_among, save
from fleet.errors import SigningError
from fleet.signing.enrolment import Admitted, Pending, Refused, Token, judge_request, seal_reply
from tests.signed_fleet import NOW_MS, SignedFleet, advance, device_key

TOKEN = SigningKey(b"t" * 32)
KEY = DeviceKey(device_key())
NONCE = "ab" * 16
GOOD = Token(uses_left=1, expires_ms=NOW_MS + 1)


@pytest.fixture(scope="module")
def fleet(tmp_path_factory):
    return SignedFleet(tmp_path_factory.mktemp("enrol") / "fleet")


def enrolment_file(root_digest: str = "0" * 64, **changes: object) -> EnrolmentFile:
    plain = EnrolmentFile(
        fleet="demo",
        prefix="ff/v1",
        enrol_url="mqtts://broker.example:8884",
        broker_ca="PEM",
        root_digest=root_digest,
        token=bytes(TOKEN).hex(),
        expires_ms=NOW_MS + 1,
    )
    return msgspec.structs.replace(plain, **changes)


def request(key: DeviceKey = KEY, nonce: str = NONCE, **changes: object) -> bytes:
    return build_request(enrolment_file(**changes), key, nonce, hardware="generic-linux").payload


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


def reply(**changes: object) -> EnrolReply:
    plain = EnrolReply(
        device=KEY.device,
        nonce=NONCE,
        fleet="demo",
        status="enrolled",
        broker_url="mqtt://127.0.0.1:1883",
        username=KEY.device,
        password="secret",
    )
    return msgspec.structs.replace(plain, **changes)


def sealed(fleet: SignedFleet, answer: EnrolReply | None = None) -> bytes:
    admitted = judge(request())
    return seal_reply(
        admitted.request,
        answer or reply(),
        key=fleet.online.enrolment,
        metadata=fleet.repository.bundle(0, ()),
    )


def verify_chain(fleet: SignedFleet):
    def verify(files: dict[str, bytes]) -> Authority:
        return advance(pin_among(files, fleet.repository.root_digest()), files).state.who_directs()

    return verify


def hear(payload: bytes, fleet: SignedFleet, into: str = "demo", **changes: object) -> EnrolReply:
    given = {"key": KEY, "nonce": NONCE, "fleet": into, "verify_chain": verify_chain(fleet)}
    return open_reply(payload, **{**given, **changes})  # type: ignore[arg-type]


def test_a_device_with_a_good_token_joins_and_keeps_its_credentials(fleet, tmp_path):
    file = enrolment_file(fleet.repository.root_digest())
    assert read_enrolment_file(encode(file), now_ms=NOW_MS) == file
    judged = judge(request())
    assert isinstance(judged, Admitted)
    assert judged.device == KEY.device
    credentials = accept_reply(hear(sealed(fleet), fleet), file)
    assert credentials is not None
    disk = Disk(tmp_path)
    assert load_credentials(disk) is None
    save_credentials(disk, credentials)
    assert load_credentials(disk) == credentials
    assert disk.path(CREDENTIALS).stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        pytest.param({"token": None}, "does not know the token", id="a wrong token"),
        pytest.param(
            {"token": replace(GOOD, expires_ms=NOW_MS)}, "has run out", id="an expired token"
        ),
        pytest.param({"token": replace(GOOD, uses_left=0)}, "used up", id="a used token"),
        pytest.param({"state": "revoked"}, "was revoked", id="a revoked device"),
        pytest.param({"seen": True}, "answered before", id="a replayed request"),
        pytest.param({"nonce": "cd" * 16}, "answered before", id="another topic"),
        pytest.param({"payload": request(fleet="other")}, "this is fleet demo", id="another fleet"),
    ],
)
def test_a_stranger_is_refused_with_a_sentence(arguments, why):
    judged = judge(**{"payload": request(), **arguments})
    assert isinstance(judged, Refused)
    assert why in judged.why


def test_a_lost_answer_may_be_asked_for_again_with_the_same_token():
    used = replace(GOOD, uses_left=0, used_by=(KEY.device,), expires_ms=0)
    assert isinstance(judge(request(), used, "enrolled"), Admitted)


def test_an_operator_approves_where_the_token_says_so():
    manual = replace(GOOD, approval="manual")
    assert isinstance(judge(request(), manual), Pending)
    assert isinstance(judge(request(), manual, "pending"), Pending)
    assert isinstance(judge(request(), manual, "enrolled"), Admitted)


@pytest.mark.parametrize("who", ["device_sig", "token_sig"])
def test_a_request_without_both_keys_gets_no_answer(who):
    frame = msgspec.json.decode(request())
    other = msgspec.json.decode(request(key=DeviceKey(SigningKey(b"x" * 32))))
    with pytest.raises(UnsignedError):
        judge(msgspec.json.encode({**frame, who: other[who]}))
    with pytest.raises(UnsignedError):
        judge(msgspec.json.encode({**frame, "body": frame["body"].replace("generic", "special")}))


def test_an_eavesdropper_cannot_open_the_reply(fleet):
    with pytest.raises(UnsignedError, match="not sealed to this device"):
        hear(sealed(fleet), fleet, key=DeviceKey(SigningKey(b"e" * 32)))


def test_the_metadata_is_verified_before_the_reply_is_believed(fleet, tmp_path):
    rogue = SignedFleet(tmp_path / "rogue")
    with pytest.raises(CorruptError, match="pinned digest"):
        hear(sealed(rogue), fleet)
    order = []

    def watched(files: dict[str, bytes]) -> Authority:
        order.append(sorted(files))
        raise CorruptError("no")

    with pytest.raises(CorruptError, match="no"):
        hear(sealed(fleet), fleet, verify_chain=watched)
    assert len(order) == 1


def test_a_reply_that_the_enrolment_key_did_not_sign_is_refused(fleet):
    box = SealedBox(KEY.public.to_curve25519_public_key())
    metadata = fleet.repository.bundle(0, ())
    for signer, topic, reason in (
        (Ed25519Signer.generate(), ENROL_REPLY.at(NONCE), UnsignedError),
        (fleet.online.director, ENROL_REPLY.at(NONCE), UnsignedError),
        (fleet.online.enrolment, ENROL_REPLY.at("cd" * 16), UnsignedError),
    ):
        document = sign_document(signer.signing, topic.logical, reply())
        inner = encode(SealedReply(metadata=metadata, document=document.decode()))
        with pytest.raises(reason):
            hear(box.encrypt(inner), fleet)


def test_a_reply_for_another_device_request_or_fleet_is_refused(fleet):
    box = SealedBox(KEY.public.to_curve25519_public_key())
    for changes in ({"device": "d-other"}, {"nonce": "cd" * 16}, {"fleet": "other"}):
        document = sign_document(
            fleet.online.enrolment.signing, ENROL_REPLY.at(NONCE).logical, reply(**changes)
        )
        inner = SealedReply(metadata=fleet.repository.bundle(0, ()), document=document.decode())
        with pytest.raises(MismatchError):
            hear(box.encrypt(encode(inner)), fleet)
    with pytest.raises(MismatchError):
        hear(sealed(fleet), fleet, into="other")
    with pytest.raises(SigningError):
        sealed(fleet, reply(nonce="cd" * 16))


def test_an_authority_of_another_fleet_brings_nobody_into_ours(fleet):
    def verify(files: dict[str, bytes]) -> Authority:
        return msgspec.structs.replace(verify_chain(fleet)(files), fleet="other")

    with pytest.raises(MismatchError):
        hear(sealed(fleet), fleet, verify_chain=verify)


@pytest.mark.parametrize("payload", [b"", b"x", bytes(100), bytes(200_000)])
def test_bytes_that_are_no_reply_are_refused(fleet, payload):
    with pytest.raises((UnsignedError, MalformedError)):
        hear(payload, fleet)


def test_pending_and_refused_end_in_waiting_or_in_a_sentence():
    file = enrolment_file()
    assert accept_reply(reply(status="pending"), file) is None
    with pytest.raises(EnrolmentError, match="the token is used up"):
        accept_reply(reply(status="refused", why="the token is used up"), file)
    for changes in ({"password": None}, {"username": None}, {"broker_url": "http://x"}):
        with pytest.raises(EnrolmentError, match="how to log in"):
            accept_reply(reply(**changes), file)


def test_a_broker_without_accounts_enrols_without_a_password():
    credentials = accept_reply(reply(username=None, password=None), enrolment_file())
    assert credentials is not None
    assert (credentials.username, credentials.password) == (None, None)


@pytest.mark.parametrize(
    ("content", "error", "why"),
    [
        pytest.param(b" \n", ConfigError, "is empty", id="empty"),
        pytest.param(b"\x7fELF", ConfigError, "not an enrolment file", id="something else"),
        pytest.param(
            encode(enrolment_file()).replace(b"root_digest", b"boot_digest"),
            ConfigError,
            "pins no root",
            id="without a pinned root",
        ),
        pytest.param(
            encode(enrolment_file(root_digest="")), ConfigError, "not an enrolment", id="empty root"
        ),
        pytest.param(
            encode(enrolment_file(enrol_url="http://x")), ConfigError, "is not mqtt:", id="bad url"
        ),
        pytest.param(
            encode(enrolment_file(enrol_url="mqtt://[::1")), ConfigError, "is not mqtt", id="no url"
        ),
        pytest.param(
            encode(enrolment_file(broker_ca="")), ConfigError, "no broker_ca", id="TLS without a CA"
        ),
        pytest.param(
            encode(enrolment_file(expires_ms=NOW_MS)), EnrolmentError, "ran out", id="expired"
        ),
        pytest.param(
            encode(enrolment_file()).replace(b'"v":1', b'"v":2'),
            ConfigError,
            "version 2",
            id="newer",
        ),
    ],
)
def test_a_bad_enrolment_file_is_refused_with_a_sentence(content, error, why):
    with pytest.raises(error, match=why) as raised:
        read_enrolment_file(content, now_ms=NOW_MS)
    assert "\n" not in str(raised.value)


def test_state_of_version_1_loads_for_ever(tmp_path):
    fixtures = Path(__file__).parents[1] / "fixtures"
    file = read_enrolment_file((fixtures / "enrolment-file-v1.json").read_bytes(), now_ms=NOW_MS)
    assert file.fleet == "demo"
    disk = Disk(tmp_path)
    disk.replace(CREDENTIALS, (fixtures / "enrolled-v1.json").read_bytes())
    assert load_credentials(disk) == Credentials(
        device="d-abcdefghijklmnop",
        fleet="demo",
        broker_url="mqtts://broker.example:8883",
        broker_ca="PEM",
        username="d-abcdefghijklmnop",
        password="secret",
    )
    disk.replace(TRUST, (fixtures / "trust-state-v1.json").read_bytes())
    trust = load(disk)
    assert trust is not None
    assert trust.who_directs().fleet == "demo"
    assert trust.marks["targets"].version == 1
    save(disk, trust)
    assert load(disk) == trust


@pytest.mark.parametrize("name", [CREDENTIALS, TRUST])
def test_newer_state_is_left_untouched(tmp_path, name):
    disk = Disk(tmp_path)
    disk.replace(name, b'{"v":2}')
    with pytest.raises(NewerStateError):
        load_credentials(disk) if name == CREDENTIALS else load(disk)
    assert disk.read(name) == b'{"v":2}'
