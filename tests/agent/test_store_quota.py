"""A quota of the store keeps a release out, never takes away what runs, and lets go by itself."""

from pathlib import Path

import pytest

from agent.contract.messages import Hosted
from agent.daemon.admitting import Admitting
from agent.disk import Disk
from agent.errors import DiskFullError
from agent.update.slot import State
from agent.update.store import Store
from tests.agents import write_config
from tests.benches import PIPELINE, Bench, placement
from tests.releases import Published
from tests.small_manager import SmallManager
from tests.small_models import classifier

OLD, NEW = Published(1, model_bytes=40_000), Published(2, model_bytes=40_000)
BLOCK = 4096


def admitted(store: Store, quota_bytes: int | None) -> tuple[str, ...]:
    """Return the digests that are to be fetched of ``NEW``."""
    admitting = Admitting(store, hardware="any", reserve_bytes=0, quota_bytes=quota_bytes)
    admitting.installed = (Hosted(name="onnx", version="1"),)
    missing = admitting.admit("motion", NEW.assigned, State(), permitted=False)
    return tuple(a.digest for a in missing)


def store_with(tmp_path: Path, *published: Published) -> Store:
    store = Store(Disk(tmp_path))
    for one in published:
        for digest, content in one.files.items():
            store.put(digest, content)
    return store


def half_way(tmp_path: Path) -> Store:
    store = store_with(tmp_path, OLD)
    store.put(NEW.digest, NEW.manifest)
    return store


def test_without_a_quota_only_the_disk_is_the_limit(tmp_path: Path):
    assert admitted(half_way(tmp_path), None) == (NEW.model.digest,)


def test_a_release_that_fits_beside_the_rest_is_fetched(tmp_path: Path):
    store = half_way(tmp_path)
    used = store.used_bytes(besides=())
    assert admitted(store, used + NEW.model.size) == (NEW.model.digest,)


def test_a_release_over_the_quota_is_refused_with_the_figures_and_evicts_nothing(tmp_path: Path):
    store = half_way(tmp_path)
    used = store.used_bytes(besides=())
    before = store.disk.names("store")
    with pytest.raises(DiskFullError, match=rf"40000 bytes .* {used} in the store.*quota_bytes"):
        admitted(store, used + NEW.model.size - 1)
    assert store.disk.names("store") == before


def test_what_arrived_of_a_release_does_not_count_against_it(tmp_path: Path):
    store = half_way(tmp_path)
    used = store.used_bytes(besides=())
    store.disk.write(f"store/{NEW.model.digest}.part", bytes(30_000))
    assert admitted(store, used + NEW.model.size) == (NEW.model.digest,)


def test_a_release_that_is_here_needs_no_room(tmp_path: Path):
    assert admitted(store_with(tmp_path, OLD, NEW), 1) == ()


def test_holes_of_a_part_file_take_no_room(tmp_path: Path):
    store = half_way(tmp_path)
    used = store.used_bytes(besides=())
    store.disk.patch(f"store/{'a' * 64}.part", 10_000_000, b"x")
    assert store.used_bytes(besides=()) <= used + 2 * BLOCK


@pytest.mark.broker
def test_a_quota_that_is_raised_lets_the_waiting_release_in(tmp_path: Path, manager: SmallManager):
    bench = Bench(tmp_path, manager)
    old = manager.publish(classifier(0), placement(1))
    new = manager.publish(classifier(0, scale=1.01), placement(2))
    with bench.run() as agent:
        bench.install(agent, old)
        assert agent.stop() == 0
    used = Store(Disk(bench.folder / "state")).used_bytes(besides=())
    write_config(bench.folder, f"{PIPELINE}[store]\nquota_bytes = {used}\n")
    with bench.run() as agent:
        manager.assign(bench.device, new)
        bench.until(agent, lambda: bench.heard.outcome_of(new.digest) == ["failed_no_change"])
        bench.until(agent, lambda: "quota_bytes" in agent.said())
        assert bench.current() == old.digest
        assert agent.stop() == 0
    failed = next(e for e in bench.heard.events("update") if e.release == new.digest)
    assert (failed.code, failed.retryable) == ("disk-full", True)
    write_config(bench.folder, f"{PIPELINE}[store]\nquota_bytes = {used + 10**6}\n")
    with bench.run() as agent:
        bench.until(agent, lambda: bench.current() == new.digest)
        assert agent.stop() == 0
