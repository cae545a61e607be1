"""A device with the running release as its base fetches a delta, and falls back by itself."""

from hashlib import sha256

import msgspec
import numpy as np
import pytest
import zstandard
from onnx import ModelProto

from agent.contract.manifest import Source, describe_artifact
from agent.contract.sources import SUBTRACT
from fleet.release import build as building
from fleet.release.build import BuiltRelease
from fleet.release.delta import Earlier, Offered
from tests.agents import RunningAgent
from tests.benches import Bench, placement
from tests.small_models import classifier

pytestmark = pytest.mark.broker


def grown(model: bytes, note: str) -> bytes:
    """Return the model with ballast, of which only the end changes from note to note."""
    proto = ModelProto.FromString(model)
    ballast = np.random.default_rng(2).integers(97, 122, 400_000, dtype=np.uint8).tobytes()
    proto.doc_string = ballast.decode() + note
    return bytes(proto.SerializeToString(deterministic=True))


def earlier(built: BuiltRelease) -> tuple[Earlier]:
    files, release = built.artifacts, built.release
    variant = release.variants[0]
    models = ((variant.runtime, files[variant.model.digest]),)
    return (Earlier(models=models, golden=files[release.golden.digest]),)


def fetched(agent: RunningAgent) -> list[str]:
    return [line for line in agent.said().splitlines() if "event=fetching" in line]


def test_a_running_device_fetches_the_delta_of_its_next_release(tmp_path, manager):
    bench = Bench(tmp_path, manager)
    old = manager.publish(grown(classifier(0), "one"), placement(1), earlier=())
    new = manager.publish(grown(classifier(0), "two"), placement(2), earlier=earlier(old))
    model = new.release.variants[0].model
    delta = min(model.sources, key=lambda s: s.size)
    assert delta.size < model.size // 100
    with bench.run() as agent:
        bench.install(agent, old)
        assert sum("source=full-zstd" in line for line in fetched(agent)) >= 1
        bench.install(agent, new)
        assert any(delta.digest[:16] in line for line in fetched(agent))
        assert not any(model.digest[:16] in line for line in fetched(agent))
        assert agent.stop() == 0
    store = bench.folder / "state" / "store"
    content = (store / model.digest).read_bytes()
    assert sha256(content).hexdigest() == model.digest
    assert not (store / delta.digest).exists()
    assert bench.heard.outcome_of(new.digest) == ["succeeded"]
    assert not bench.heard.events("alarm")


def test_a_signed_delta_that_makes_other_bytes_costs_bytes_and_nothing_else(
    tmp_path, manager, monkeypatch
):
    bench = Bench(tmp_path, manager)
    old = manager.publish(grown(classifier(0), "one"), placement(1))
    base = old.release.variants[0].model.digest

    def lie(content: bytes, _bases: object, *, encrypt: bool) -> Offered:
        assert not encrypt
        packed = zstandard.compress(bytes(len(content)))  # the base again, not the release
        described = msgspec.structs.asdict(describe_artifact(packed))
        source = Source(**described, kind=SUBTRACT, base=base)
        artifact = msgspec.structs.replace(describe_artifact(content), sources=(source,))
        return Offered(artifact=artifact, files={artifact.digest: content, source.digest: packed})

    monkeypatch.setattr(building, "offer", lie)
    new = manager.publish(grown(classifier(0), "two"), placement(2), earlier=())
    with bench.run() as agent:
        bench.install(agent, old)
        bench.install(agent, new)
        assert "event=source-refused" in agent.said()
        assert agent.stop() == 0
    assert bench.heard.outcome_of(new.digest) == ["succeeded"]
    model = new.release.variants[0].model.digest
    content = (bench.folder / "state" / "store" / model).read_bytes()
    assert sha256(content).hexdigest() == model
