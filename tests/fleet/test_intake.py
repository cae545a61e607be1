import pytest
from nacl.signing import SigningKey

from agent.contract.codec import encode
from agent.contract.envelope import Boot, stamp_report
from agent.contract.frames import pack_parcel
from agent.contract.limits import MAX_PAYLOAD_BYTES
from agent.contract.messages import ChunkRequest, FreshRequest
from agent.contract.rounds import TaskAnswer
from agent.contract.topics import (
    ACK,
    ARTIFACT_REQUEST,
    FRESH_REQUEST,
    REPORTED,
    ROUND_ANSWER,
)
from agent.errors import CorruptError, MalformedError, UnsignedError
from fleet.ingest.intake import read

KEY = SigningKey(b"\1" * 32)
BOOT = Boot(3, "00ff00ff00ff00ff")
NONCE = FreshRequest(nonce="ab" * 16)
ADDRESS = FRESH_REQUEST.at("d-7")


def stamped(payload: bytes, address=ADDRESS, key: SigningKey = KEY, sequence: int = 1):
    return stamp_report(key, address.logical, BOOT, sequence, payload).properties()


def known(device: str):
    return KEY.verify_key if device == "d-7" else None


def test_a_report_signed_by_its_device_is_believed():
    payload = encode(NONCE)
    said = read(ADDRESS, payload, stamped(payload), known)
    assert (said.device, said.body, said.spooled) == ("d-7", NONCE, False)


@pytest.mark.parametrize(
    ("address", "payload", "properties", "reason"),
    [
        pytest.param(ADDRESS, encode(NONCE), (), UnsignedError, id="a stripped stamp"),
        pytest.param(
            ADDRESS, encode(NONCE), stamped(encode(NONCE), key=SigningKey(b"\2" * 32)),
            UnsignedError, id="a stranger's key",
        ),
        pytest.param(
            ADDRESS, encode(NONCE), stamped(encode(NONCE), REPORTED.at("d-7")),
            UnsignedError, id="said on another topic",
        ),
        pytest.param(
            ADDRESS, encode(NONCE) + b" ", stamped(encode(NONCE)),
            UnsignedError, id="one byte more",
        ),
        pytest.param(
            FRESH_REQUEST.at("d-8"), encode(NONCE), stamped(encode(NONCE)),
            UnsignedError, id="an unknown device",
        ),
        pytest.param(
            ACK.at("d-7"), encode(NONCE), stamped(encode(NONCE)), MalformedError,
            id="a topic that devices do not write",
        ),
        pytest.param(
            ADDRESS, b" " * (MAX_PAYLOAD_BYTES + 1), (),
            MalformedError, id="a payload over the limit",
        ),
        pytest.param(
            ADDRESS, b"{}", stamped(b"{}"), MalformedError, id="signed, but of another shape",
        ),
    ],
)  # fmt: skip
def test_the_manager_refuses(address, payload, properties, reason):
    with pytest.raises(reason):
        read(address, payload, properties, known)


def test_requests_for_bytes_need_no_signature():
    request = ChunkRequest(a="ab" * 32, r=((0, 4),))
    assert read(ARTIFACT_REQUEST.at("d-7"), encode(request), (), known).body == request


def test_an_attachment_that_is_not_the_named_one_is_refused():
    answer = TaskAnswer(run="run-1", task="task-1", outcome="done", digest="ab" * 32)
    payload = pack_parcel(encode(answer), b"weights")
    address = ROUND_ANSWER.at("d-7", "run-1")
    with pytest.raises(CorruptError):
        read(address, payload, stamped(payload, address), known)
