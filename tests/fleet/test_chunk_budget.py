"""All devices together take no more than the common budget, whatever each may take alone."""

from pathlib import Path

from agent.contract.limits import CHUNK_BYTES
from agent.contract.messages import ChunkRequest
from fleet.ingest.serve import ChunkServer
from fleet.registry.artifacts import Artifacts


def test_many_devices_share_one_budget(tmp_path: Path):
    artifacts = Artifacts(tmp_path)
    digest = artifacts.put(bytes(20 * CHUNK_BYTES))
    chunks = ChunkServer(
        artifacts, device_bytes_per_second=1e9, total_bytes_per_second=16 * CHUNK_BYTES
    )
    for device in ("d-a", "d-b", "d-c"):
        chunks.ask(device, ChunkRequest(a=digest, r=((0, 20),)))
    at_once = chunks.ready(1000.0)  # the burst: a quarter of a second's budget
    assert len(at_once) == 4
    assert {address.who for address, _ in at_once} <= {"d-a", "d-b", "d-c"}
    later = [len(chunks.ready(1000.0 + n / 8)) for n in range(1, 9)]
    assert later == [2] * 8
    assert chunks.waiting
