from pathlib import Path

from agent.contract.codec import decode
from agent.contract.frames import Piece
from agent.contract.limits import CHUNK_BYTES, MAX_METADATA_BYTES
from agent.contract.messages import ChunkRefusal, ChunkRequest, MetaBundle, MetaRequest
from agent.contract.topics import ARTIFACT, ARTIFACT_CAST, ARTIFACT_REFUSAL
from fleet.ingest.serve import MAX_WAITING_CHUNKS, ChunkServer, metadata_pieces
from fleet.registry.artifacts import Artifacts

CONTENT = bytes(range(256)) * 1024 * 3  # twelve chunks


def server(folder: Path, **rates: float) -> tuple[ChunkServer, str]:
    artifacts = Artifacts(folder)
    digest = artifacts.put(CONTENT)
    return ChunkServer(artifacts, **rates), digest


def test_a_device_gets_the_chunks_that_it_asked_for_and_no_others(tmp_path: Path):
    chunks, digest = server(tmp_path)
    chunks.ask("d-7", ChunkRequest(a=digest, r=((2, 2), (11, 5))))
    pieces = [Piece.decode(payload) for _, payload in chunks.ready(1.0)]
    assert [p.index for p in pieces] == [2, 3, 11]
    assert pieces[0].content == CONTENT[2 * CHUNK_BYTES : 3 * CHUNK_BYTES]
    assert not chunks.waiting


def test_an_unknown_artifact_is_refused_at_once_and_once(tmp_path: Path):
    chunks, _ = server(tmp_path)
    for first in (0, 1):
        chunks.ask("d-7", ChunkRequest(a="ab" * 32, r=((first, 1),)))
    ((address, payload),) = chunks.ready(1.0)
    assert address == ARTIFACT_REFUSAL.at("d-7", "ab" * 8)
    assert decode(ChunkRefusal, payload).a == "ab" * 32
    assert chunks.ready(2.0) == []


def test_what_several_devices_ask_for_travels_once_and_paced(tmp_path: Path):
    chunks, digest = server(tmp_path, cast_bytes_per_second=32.0 * CHUNK_BYTES)
    assert chunks.ready(1.0) == []
    for device in ("d-1", "d-2", "d-3"):
        chunks.ask(device, ChunkRequest(a=digest, g=True, r=((0, 12),)))
    sent = [piece for now in range(101, 200) for piece in chunks.ready(now / 100)]
    cast = [Piece.decode(p).index for a, p in sent if a.channel is ARTIFACT_CAST]
    alone = [a.who for a, _ in sent if a.channel is ARTIFACT]
    assert cast == list(range(12))
    assert alone == ["d-1", "d-2"] * 12, "they asked before anybody knew of the third"
    assert not chunks.waiting


def test_a_device_that_does_not_listen_gets_every_chunk_alone(tmp_path: Path):
    chunks, digest = server(tmp_path)
    for device in ("d-1", "d-2", "d-3", "d-old"):
        listens = device != "d-old"
        chunks.ask(device, ChunkRequest(a=digest, g=listens, r=((0, 12),)))
    sent = [piece for now in range(10, 40) for piece in chunks.ready(now / 10)]
    assert [a.who for a, _ in sent].count("d-old") == 12


def test_a_budget_spreads_chunks_over_time_and_loses_none(tmp_path: Path):
    chunks, digest = server(tmp_path, device_bytes_per_second=4.0 * 2 * CHUNK_BYTES)
    chunks.ask("d-7", ChunkRequest(a=digest, r=((0, 12),)))
    sent = [len(chunks.ready(now / 10)) for now in range(10, 40)]
    assert sent[0] == 2
    assert sum(sent) == 12


def test_one_greedy_device_does_not_use_up_the_budget_of_another(tmp_path: Path):
    chunks, digest = server(tmp_path, device_bytes_per_second=4.0 * 2 * CHUNK_BYTES)
    chunks.ask("greedy", ChunkRequest(a=digest, r=((0, 12),)))
    chunks.ask("modest", ChunkRequest(a=digest, r=((0, 1),)))
    assert {a.who for a, _ in chunks.ready(1.0)} == {"greedy", "modest"}


def test_what_waits_for_one_device_is_bounded(tmp_path: Path):
    artifacts = Artifacts(tmp_path)
    digest = artifacts.put(b"x" * CHUNK_BYTES * (MAX_WAITING_CHUNKS + 40))
    chunks = ChunkServer(artifacts)
    for first in range(0, MAX_WAITING_CHUNKS + 40, 32):
        chunks.ask("d-7", ChunkRequest(a=digest, r=((first, 32),)))
    assert len(chunks.ready(1.0)) <= MAX_WAITING_CHUNKS


def test_metadata_arrives_whole_from_its_pieces():
    files = {"1.root.json": b"r" * 200_000, "timestamp.json": b"t"}
    answer = metadata_pieces("d-7", MetaRequest(id="00ff" * 4, root=0), files)
    whole = b"".join(Piece.decode(payload).content for _, payload in answer)
    assert decode(MetaBundle, whole, limit=MAX_METADATA_BYTES).files == files
    assert len(answer) > 1


def test_devices_take_turns_and_no_more_leaves_than_there_is_room_for(tmp_path: Path):
    chunks, digest = server(tmp_path)
    for device in ("d-a", "d-b", "d-c"):
        chunks.ask(device, ChunkRequest(a=digest, r=((0, 12),)))
    rounds = [[a.who for a, _ in chunks.ready(1.0, room_bytes=4 * CHUNK_BYTES)] for _ in range(9)]
    assert all(len(sent) == 4 and len(set(sent)) == 3 for sent in rounds[:8])
    assert (
        sorted(who for sent in rounds for who in sent) == ["d-a"] * 12 + ["d-b"] * 12 + ["d-c"] * 12
    )
    assert not chunks.waiting
    assert chunks.ready(1.0, room_bytes=-5) == []
