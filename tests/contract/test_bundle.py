"""An update bundle is read whole and in order, or refused by name."""

from hashlib import sha256
from io import BytesIO

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.contract import bundle as format_of
from agent.contract.bundle import Bundle, BundleWriter, read_bundle
from agent.contract.limits import MAX_ARTIFACT_BYTES
from agent.errors import ContractError, TrustError
from agent.refusals import AlteredBundleError, BadBundleError, TruncatedBundleError

OURS, OTHER = "d-aaaaaaaaaaaaaaaa", "d-bbbbbbbbbbbbbbbb"
MODEL = bytes(range(256)) * 3000
DIGEST = sha256(MODEL).hexdigest()


def written() -> bytes:
    out = BytesIO()
    writer = BundleWriter(out)
    writer.metadata("timestamp.json", b"a timestamp")
    writer.metadata("models/motion/v3.json", b"a manifest")
    writer.assignment(OTHER, b"what the other should run")
    writer.assignment(OURS, b"what we should run")
    writer.file(DIGEST, len(MODEL), (MODEL[:1000], MODEL[1000:]))
    writer.end()
    return out.getvalue()


WRITTEN = written()


def read(content: bytes, device: str = OURS) -> Bundle:
    return read_bundle(BytesIO(content), device)


def record(kind: bytes, name: bytes, size: int) -> bytes:
    return kind + bytes((len(name),)) + size.to_bytes(8, "big") + name


def test_a_device_finds_its_own_assignment_and_where_the_files_lie():
    found = read(WRITTEN)
    assert found.metadata == {
        "timestamp.json": b"a timestamp",
        "models/motion/v3.json": b"a manifest",
    }
    assert found.assignment == b"what we should run"
    assert found.devices == 2
    place = found.files[DIGEST]
    assert WRITTEN[place.at : place.at + place.size] == MODEL


def test_a_device_that_is_not_in_it_finds_no_assignment():
    found = read(WRITTEN, "d-cccccccccccccccc")
    assert found.assignment is None
    assert found.devices == 2


@pytest.mark.parametrize("cut", [0, 3, 4, 10, 60, 300, 5000, len(WRITTEN) - 33, len(WRITTEN) - 1])
def test_a_bundle_that_ends_early_is_truncated(cut: int):
    with pytest.raises(TruncatedBundleError):
        read(WRITTEN[:cut])


@pytest.mark.parametrize(
    "old",
    [b"a timestamp", b"a manifest", b"we should run", b"other should", MODEL[5000:5200]],
)
def test_a_byte_changed_anywhere_is_told_as_a_damaged_copy(old: bytes):
    at = WRITTEN.index(old)
    with pytest.raises(AlteredBundleError):
        read(WRITTEN[:at] + bytes((WRITTEN[at] ^ 1,)) + WRITTEN[at + 1 :])


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"PK\x03\x04" + WRITTEN, id="an archive"),
        pytest.param(b"FFB\x02" + WRITTEN[4:], id="a later version"),
        pytest.param(WRITTEN + b"!", id="more after its end"),
        pytest.param(b"FFB\x01" + record(b"X", b"name", 1), id="an unknown kind"),
        pytest.param(b"FFB\x01" + record(b"M", b"../../etc/passwd", 1), id="a way out"),
        pytest.param(b"FFB\x01" + record(b"M", b"/etc/passwd", 1), id="an absolute name"),
        pytest.param(b"FFB\x01" + record(b"F", b"model.onnx", 1), id="a file without digest"),
        pytest.param(b"FFB\x01" + record(b"A", b"D-UPPER", 1), id="no device id"),
        pytest.param(b"FFB\x01" + record(b"M", b"", 1), id="no name"),
        pytest.param(b"FFB\x01" + record(b"M", b"a.json", 2**63), id="metadata without end"),
        pytest.param(
            b"FFB\x01" + record(b"F", b"ab" * 32, MAX_ARTIFACT_BYTES + 1), id="a file too large"
        ),
        pytest.param(
            b"FFB\x01" + 2 * (record(b"M", b"a.json", 1) + b"x"), id="the same name twice"
        ),
        pytest.param(
            b"FFB\x01" + record(b"A", OURS.encode(), 1) + b"x" + record(b"M", b"a.json", 1),
            id="metadata after an assignment",
        ),
        pytest.param(b"FFB\x01" + record(b"E", b"", 31), id="an end of another length"),
    ],
)
def test_what_is_not_written_as_a_bundle_is_refused(content: bytes):
    with pytest.raises(BadBundleError):
        read(content)


def test_more_metadata_than_a_device_holds_is_refused(monkeypatch):
    monkeypatch.setattr(format_of, "MAX_METADATA_TOTAL", 15)
    with pytest.raises(BadBundleError, match="metadata"):
        read(WRITTEN)


def test_a_file_that_is_not_its_digest_is_not_written():
    writer = BundleWriter(BytesIO())
    with pytest.raises(AlteredBundleError):
        writer.file(DIGEST, len(MODEL), (MODEL[:-1],))
    with pytest.raises(AlteredBundleError):
        writer.file("ab" * 32, len(MODEL), (MODEL,))


@settings(max_examples=300)
@given(st.integers(0, len(WRITTEN) - 1), st.integers(1, 255))
def test_no_changed_byte_passes(at: int, flip: int):
    changed = bytearray(WRITTEN)
    changed[at] ^= flip
    with pytest.raises((TrustError, ContractError)):
        read(bytes(changed))


@given(st.binary(max_size=400))
def test_any_bytes_are_refused_by_name(content: bytes):
    for tried in (content, b"FFB\x01" + content):
        with pytest.raises((TrustError, ContractError)):
            read(tried)
