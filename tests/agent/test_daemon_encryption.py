"""A device opens an encrypted release with the key from its assignment, or says why it cannot."""

from hashlib import sha256
from io import BytesIO
from pathlib import Path

import msgspec
import pytest

from agent.contract.expand import expand_source
from agent.contract.manifest import Artifact
from agent.contract.sealing import new_key, seal_stream
from agent.contract.sources import full_source
from agent.daemon.accepted import AcceptedAssignment
from fleet.release import delta as making
from fleet.release.build import BuiltRelease
from tests.agent.test_daemon_deltas import earlier, fetched, grown
from tests.benches import Bench, placement
from tests.small_manager import SmallManager
from tests.small_models import classifier

pytestmark = pytest.mark.broker


def stored(bench: Bench, built: BuiltRelease) -> dict[str, bytes]:
    folder = bench.folder / "state" / "store"
    return {a.digest: (folder / a.digest).read_bytes() for a in built.release.artifacts}


def opened(manager: SmallManager, built: BuiltRelease, artifact: Artifact) -> bytes:
    source = full_source(artifact)
    sealed, key = BytesIO(manager.artifacts.read(source.digest)), built.keys[source.digest]
    return b"".join(expand_source(source.kind, sealed, None, artifact.size, key))


def file_digest(path: Path) -> str:
    return sha256(path.read_bytes()).hexdigest()


def alarmed(bench: Bench, code: str) -> bool:
    return any(e.code == code for e in bench.heard.events("update"))


def test_an_encrypted_release_runs_and_only_its_sealed_streams_travelled(
    tmp_path, manager, monkeypatch
):
    bench = Bench(tmp_path, manager)
    model = grown(classifier(0), "one")
    built = manager.publish(model, placement(1), encrypt=True)
    sent: list[bytes] = []
    send = manager.send
    monkeypatch.setattr(manager, "send", lambda a, p, **o: (sent.append(p), send(a, p, **o)))
    with bench.run() as agent:
        bench.install(agent, built)
        lines = fetched(agent)
        assert agent.stop() == 0
    assert lines
    assert all("source=sealed-full-zstd" in line for line in lines)
    assert model in stored(bench, built).values()
    chunks = [payload for payload in sent if payload.startswith(b"FFP")]
    assert sum(map(len, chunks)) > 200_000
    assert not any(model[at : at + 64] in p for p in sent for at in range(0, len(model), 20_000))
    streams = {source.digest for a in built.release.artifacts for source in a.sources}
    assert not any((bench.folder / "state" / "store" / digest).exists() for digest in streams)
    assert bench.heard.outcome_of(built.digest) == ["succeeded"]
    assert not bench.heard.events("alarm")


def test_the_next_release_comes_as_a_sealed_delta(tmp_path, manager):
    bench = Bench(tmp_path, manager)
    first, second = grown(classifier(0), "one"), grown(classifier(0), "two")
    old = manager.publish(first, placement(1), encrypt=True)
    golden = old.release.golden
    old.artifacts[old.release.variants[0].model.digest] = first
    old.artifacts[golden.digest] = opened(manager, old, golden)
    new = manager.publish(second, placement(2), earlier=earlier(old), encrypt=True)
    delta = min(new.release.variants[0].model.sources, key=lambda s: s.size)
    assert delta.base == old.release.variants[0].model.digest
    with bench.run() as agent:
        bench.install(agent, old)
        bench.install(agent, new)
        assert any(delta.digest[:16] in line for line in fetched(agent))
        assert agent.stop() == 0
    assert second in stored(bench, new).values()


def test_without_its_key_a_release_waits_with_a_code_and_runs_when_the_key_comes(tmp_path, manager):
    bench = Bench(tmp_path, manager)
    old = manager.publish(classifier(0), placement(1))
    new = manager.publish(grown(classifier(0), "new"), placement(2), encrypt=True)
    keys, manager.content_keys = manager.content_keys, {}
    with bench.run() as agent:
        bench.install(agent, old)
        manager.assign(bench.device, new)
        bench.until(agent, lambda: alarmed(bench, "key-missing"))
        assert bench.current() == old.digest
        manager.content_keys = keys
        bench.install(agent, new)
        assert agent.stop() == 0


def test_a_wrong_key_is_named_and_a_better_one_is_taken_without_fetching_again(tmp_path, manager):
    bench = Bench(tmp_path, manager)
    old = manager.publish(classifier(0), placement(1))
    new = manager.publish(grown(classifier(0), "new"), placement(2), encrypt=True)
    keys, manager.content_keys = manager.content_keys, dict.fromkeys(new.keys, new_key())
    with bench.run() as agent:
        bench.install(agent, old)
        manager.assign(bench.device, new)
        bench.until(agent, lambda: alarmed(bench, "key-wrong"))
        assert bench.current() == old.digest
        manager.content_keys = keys
        stream = full_source(new.release.variants[0].model).digest
        (tmp_path / "home" / "artifacts" / stream).unlink()
        bench.install(agent, new)
        assert agent.stop() == 0


def test_after_a_restart_a_rotten_model_is_made_again(tmp_path, manager):
    bench = Bench(tmp_path, manager)
    built = manager.publish(classifier(0), placement(1), encrypt=True)
    with bench.run() as agent:
        bench.install(agent, built)
        assert agent.stop() == 0
    accepted = (bench.folder / "state" / "accepted.json").read_bytes()
    kept = msgspec.json.decode(accepted, type=AcceptedAssignment)
    assert kept.keys.keys() == built.keys.keys()
    assert not any(key.hex().encode() in accepted or key in accepted for key in built.keys.values())
    model = bench.folder / "state" / "store" / built.release.variants[0].model.digest
    model.write_bytes(bytes(model.stat().st_size))
    with bench.run() as agent:
        bench.until(agent, lambda: model.exists() and file_digest(model) == model.name)
        bench.until(agent, lambda: bench.current() == built.digest)
        assert agent.stop() == 0


@pytest.mark.parametrize(
    ("spoil", "code"),
    [
        pytest.param(lambda sealed: sealed[:-1], "stream-truncated", id="truncated"),
        pytest.param(lambda sealed: sealed[:-1] + b"!", "key-wrong", id="changed in one part"),
        pytest.param(lambda sealed: b"XXX" + sealed[3:], "stream-malformed", id="no stream"),
        pytest.param(lambda sealed: sealed + b"!", "stream-disordered", id="more after its end"),
    ],
)
def test_a_signed_stream_that_does_not_open_is_refused_with_its_own_code(
    tmp_path, manager, monkeypatch, spoil, code
):
    bench = Bench(tmp_path, manager)
    old = manager.publish(classifier(0), placement(1))
    with monkeypatch.context() as patched:
        patched.setattr(making, "seal_stream", lambda c, key: spoil(seal_stream(c, key)))
        patched.setattr(making, "_require_same", lambda *_: None)
        new = manager.publish(classifier(1), placement(2), encrypt=True)
    with bench.run() as agent:
        bench.install(agent, old)
        manager.assign(bench.device, new)
        bench.until(agent, lambda: alarmed(bench, code))
        assert bench.current() == old.digest
        assert agent.stop() == 0
