"""What a publisher offers beside an artifact: never more bytes, always the same ones."""

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from agent.contract.expand import expand
from agent.contract.limits import MAX_MANIFEST_BYTES, MAX_SOURCES
from agent.contract.sources import FULL, PATCH, SUBTRACT
from fleet.errors import AdmissionError
from fleet.release import delta
from fleet.release.build import build_release, find_head
from fleet.release.candidate import read_head, with_head
from fleet.release.delta import Earlier, Offered, offer, patch, subtract
from tests.benches import placement
from tests.small_models import classifier

MOTION = (Path(__file__).parents[2] / "scripts/base_model/motion-int8.onnx").read_bytes()
RNG = np.random.default_rng(11)
TEXT = b"".join(RNG.choice([b"walk ", b"sit ", b"run "], 20_000))


def noise(size: int, seed: int = 3) -> bytes:
    return np.random.default_rng(seed).integers(0, 256, size, dtype=np.uint8).tobytes()


def kinds(offered: Offered) -> dict[str, int]:
    return {source.kind: source.size for source in offered.artifact.sources}


def tuned(model: bytes, by: float) -> bytes:
    head = find_head(model)
    assert head
    weight, bias = read_head(model, head)
    step = RNG.normal(0, by, weight.shape).astype(np.float32)
    return with_head(model, head, weight + step, bias)


def test_only_the_head_of_a_tuned_model_travels():
    offered = offer(tuned(MOTION, 0.01), [MOTION])
    small = min(offered.artifact.sources, key=lambda s: s.size)
    assert small.base
    assert small.size < 0.07 * len(MOTION), "a float32 head is 6.5% of this small file"


def test_bytes_that_moved_are_patched():
    base = noise(300_000)
    moved = base[150_000:] + b"a new layer" + base[:150_000]
    assert kinds(offer(moved, [base])).keys() == {PATCH}


def test_bytes_that_changed_a_little_everywhere_are_subtracted():
    base = noise(300_000)
    nudge = RNG.integers(0, 2, 300_000, dtype=np.uint8)
    changed = (np.frombuffer(base, np.uint8) + nudge).tobytes()
    assert kinds(offer(changed, [base])).keys() == {SUBTRACT}


def test_a_retrained_model_never_costs_more_than_compressed_full():
    full = len(zstandard.ZstdCompressor(level=19).compress(TEXT))
    offered = offer(TEXT, [noise(90_000), TEXT[::-1]])
    assert min(kinds(offered).values()) <= 1.01 * full


def test_what_saves_nothing_is_not_offered():
    content = noise(100_000)
    assert offer(content, [noise(100_000, 4)]).files == {
        offer(content, []).artifact.digest: content
    }
    assert offer(content, [content]).artifact.sources == (), "who has it needs no way to it"


def test_more_bases_than_a_manifest_takes_are_left_out():
    bases = [TEXT[:-number] for number in range(1, MAX_SOURCES + 3)]
    offered = offer(noise(600) + TEXT, bases)
    assert len(offered.artifact.sources) == MAX_SOURCES


def test_a_source_that_makes_other_bytes_is_never_published(monkeypatch):
    monkeypatch.setattr(delta, "_compress", lambda content: zstandard.compress(content[::-1]))
    with pytest.raises(AdmissionError, match="makes other bytes"):
        offer(TEXT, [])


@given(
    content=st.binary(min_size=1, max_size=300),
    base=st.binary(min_size=1, max_size=300),
    repeat=st.integers(1, 40),
)
def test_both_ways_lead_back_to_the_artifact(content, base, repeat):
    wanted = content * repeat + base
    for kind, make in ((PATCH, patch), (SUBTRACT, subtract)):
        packed = BytesIO(make(wanted, base))
        assert b"".join(expand(kind, packed, BytesIO(base), len(wanted))) == wanted


def test_a_release_carries_the_bytes_of_every_source_that_it_names():
    old = classifier(0)
    first = build_release(old, placement(1), golden_inputs=None, metrics={}, now_ms=1)
    golden = first.artifacts[first.release.golden.digest]
    built = build_release(
        tuned(MOTION, 0.01),
        placement_of_motion(),
        golden_inputs=None,
        metrics={},
        now_ms=2,
        earlier=[Earlier(models=(("onnx", MOTION),), golden=golden)],
    )
    assert set(built.artifacts) == {a.digest for a in built.release.files}
    assert len(built.release.files) > len(built.release.artifacts)
    assert len(built.manifest) < MAX_MANIFEST_BYTES
    assert {s.kind for s in built.release.variants[0].model.sources} >= {FULL}


def placement_of_motion():
    bare = placement(2)
    return type(bare)(family="motion", version="v2", slot="motion", counter=2)
