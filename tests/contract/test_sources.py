"""Which source a device takes, and what it refuses to let out of one."""

from io import BytesIO

import msgspec
import pytest
import zstandard

from agent.contract.codec import decode, encode
from agent.contract.expand import expand
from agent.contract.limits import MAX_SOURCES
from agent.contract.manifest import Artifact, Source, describe_artifact
from agent.contract.sources import (
    FULL,
    MAX_PATCHED_BYTES,
    PATCH,
    PLAIN,
    SEALED,
    SUBTRACT,
    WINDOW_LOG,
    choose_source,
    full_source,
)
from agent.errors import CorruptError, MalformedError, UnsupportedError

CONTENT = bytes(range(256)) * 40
BASE = "b" * 64


def packed(content: bytes, **options: int) -> bytes:
    return zstandard.ZstdCompressor(**options).compress(content)


def source(kind: str, size: int, base: str | None = None) -> Source:
    described = describe_artifact(f"{kind} {base} ".encode() + bytes(size - len(f"{kind} {base} ")))
    return Source(**msgspec.structs.asdict(described), kind=kind, base=base)


def wanted(*sources: Source, size: int = 0) -> Artifact:
    whole = describe_artifact(CONTENT)
    if size:
        whole = Artifact(digest="a" * 64, size=size, chunks="00" * 16 * -(-size // 65536))
    return msgspec.structs.replace(whole, sources=sources)


def test_the_smallest_source_whose_base_is_here_is_taken():
    full, delta = source(FULL, 900), source(SUBTRACT, 100, BASE)
    absent = source(PATCH, 90, "c" * 64)
    artifact = wanted(full, delta, absent)
    here = {BASE: 5}.get
    assert choose_source(artifact, here, ()) == delta
    assert choose_source(artifact, here, {delta.digest}) == full
    assert choose_source(artifact, {}.get, ()) == full
    assert choose_source(artifact, here, {delta.digest, full.digest}) is None


@pytest.mark.parametrize(
    "useless",
    [
        pytest.param(source("tomorrow-zstd", 100), id="a kind of tomorrow"),
        pytest.param(source(FULL, len(CONTENT)), id="no smaller than the artifact"),
        pytest.param(source(SUBTRACT, 100), id="a difference from nothing"),
        pytest.param(source(PATCH, 100), id="a patch of nothing"),
    ],
)
def test_a_source_that_cannot_be_used_leaves_the_artifact_to_be_fetched_whole(useless):
    assert choose_source(wanted(useless), {BASE: 5}.get, ()) is None


def test_a_patch_is_only_for_what_fits_into_memory_twice():
    patch = source(PATCH, 100, BASE)
    assert choose_source(wanted(patch), {BASE: MAX_PATCHED_BYTES}.get, ()) == patch
    assert choose_source(wanted(patch), {BASE: MAX_PATCHED_BYTES + 1}.get, ()) is None
    large = wanted(patch, size=MAX_PATCHED_BYTES + 1)
    assert choose_source(large, {BASE: 5}.get, ()) is None


def test_sources_travel_in_a_manifest_and_an_old_reader_leaves_them_alone():
    artifact = wanted(source(FULL, 900), source("tomorrow-zstd", 100))
    assert decode(Artifact, encode(artifact)) == artifact
    today = msgspec.json.decode(encode(artifact))
    del today["sources"]
    assert decode(Artifact, msgspec.json.encode(today)) == describe_artifact(CONTENT)


@pytest.mark.parametrize(
    "spoilt",
    [
        pytest.param(lambda s: {"sources": [{**s, "sources": [s]}]}, id="a source of a source"),
        pytest.param(lambda s: {"sources": [s] * (MAX_SOURCES + 1)}, id="too many"),
        pytest.param(lambda s: {"sources": [{**s, "base": "../x"}]}, id="a base that is no digest"),
        pytest.param(lambda s: {"sources": [{**s, "chunks": ""}]}, id="without chunk hashes"),
        pytest.param(lambda s: {"sources": [{**s, "kind": ""}]}, id="without a kind"),
    ],
)
def test_a_manifest_with_spoilt_sources_does_not_parse(spoilt):
    artifact = msgspec.json.decode(encode(wanted(source(FULL, 900))))
    with pytest.raises(MalformedError):
        decode(Artifact, msgspec.json.encode(artifact | spoilt(artifact["sources"][0])))


def out(kind: str, content: bytes, base: bytes | None, size: int = len(CONTENT)) -> bytes:
    return b"".join(expand(kind, BytesIO(content), BytesIO(base) if base else None, size))


def test_what_comes_out_is_never_longer_than_the_artifact():
    bomb, made = packed(bytes(200_000_000)), list[int]()
    with pytest.raises(CorruptError, match="makes more of the 1000000"):
        made.extend(map(len, expand(FULL, BytesIO(bomb), None, 1_000_000)))
    assert 0 < sum(made) <= 1_000_000


@pytest.mark.parametrize(
    ("kind", "content", "base", "error"),
    [
        pytest.param(FULL, packed(CONTENT)[:-9], None, CorruptError, id="a frame cut short"),
        pytest.param(FULL, packed(CONTENT[:-1]), None, CorruptError, id="a byte too few"),
        pytest.param(FULL, b"not a frame", None, CorruptError, id="no frame"),
        pytest.param(FULL, b"", None, CorruptError, id="nothing"),
        pytest.param(PATCH, packed(CONTENT), None, UnsupportedError, id="a patch without a base"),
        pytest.param(SUBTRACT, packed(CONTENT), None, UnsupportedError, id="no minuend"),
        pytest.param("tomorrow-zstd", packed(CONTENT), None, UnsupportedError, id="unknown"),
    ],
)
def test_what_does_not_expand_is_refused_by_name(kind, content, base, error):
    with pytest.raises(error):
        out(kind, content, base)


def test_a_frame_that_wants_a_larger_window_than_ours_is_refused():
    large = bytes(3 << WINDOW_LOG)
    greedy = zstandard.ZstdCompressionParameters.from_level(3, window_log=WINDOW_LOG + 1)
    content = zstandard.ZstdCompressor(compression_params=greedy).compress(large)
    with pytest.raises(CorruptError, match="memory"):
        out(FULL, content, None, len(large))


def test_a_difference_longer_than_its_base_keeps_its_end():
    difference = bytes((c - b) % 256 for c, b in zip(CONTENT[:100], b"\7" * 100, strict=True))
    assert out(SUBTRACT, packed(difference + CONTENT[100:]), b"\7" * 100) == CONTENT


def encrypted(*sources: Source) -> Artifact:
    return msgspec.structs.replace(describe_artifact(CONTENT), chunks="", sources=sources)


def test_an_encrypted_artifact_is_made_from_its_sealed_sources_and_nothing_else():
    plain, delta = source(FULL, 900), source(SEALED + SUBTRACT, 100, BASE)
    full = source(SEALED + PLAIN, len(CONTENT) + 60)
    artifact = encrypted(plain, delta, full)
    assert choose_source(artifact, {BASE: 5}.get, ()) == delta
    assert choose_source(artifact, {}.get, ()) == full
    assert choose_source(artifact, {}.get, {full.digest}) is None
    assert full_source(encrypted(delta, full)) == full


def test_an_artifact_that_is_not_encrypted_is_not_made_from_a_sealed_source():
    assert choose_source(wanted(source(SEALED + FULL, 900)), {}.get, ()) is None
    assert choose_source(wanted(source(PLAIN, 900)), {}.get, ()) is None


def test_a_source_at_hand_goes_before_a_smaller_one():
    full, delta = source(FULL, 900), source(SUBTRACT, 100, BASE)
    assert choose_source(wanted(full, delta), {BASE: 5, full.digest: 900}.get, ()) == full
    assert choose_source(wanted(full, delta), {BASE: 5, full.digest: 899}.get, ()) == delta


def test_an_encrypted_artifact_without_a_full_stream_cannot_be():
    with pytest.raises(ValueError, match="one hash for each chunk"):
        encrypted(source(SEALED + PATCH, 90, BASE))
    with pytest.raises(ValueError, match="one hash for each chunk"):
        encrypted()
