"""What a run offers and gets, between whole messages and what travels."""

from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from msgspec.structs import replace

from agent.contract.belief import believe_task
from agent.contract.frames import Piece
from agent.contract.rounds import SentRecord, Task, TaskAnswer
from agent.contract.shared_arrays import cut_message, in_chunks, join_message
from agent.contract.topics import ROUND_OFFER
from agent.contract.updates import pack
from agent.errors import MalformedError, UnsignedError
from fleet.cli.runs import start
from fleet.ingest import round_records
from fleet.ingest.round_records import KEPT_RECORDS, RoundRecords
from fleet.registry.devices import DeviceState
from fleet.service import round_answers, round_traffic
from fleet.service.round_traffic import whole_answer
from tests.manager_home import make_desk
from tests.shared_rounds import BACKBONE, RUN, flower, weights
from tests.small_fleet import BOOT, NOW, an_inventory

SMALL, LARGE = flower(weights(500)), flower(weights(60_000))


def task(device: str) -> Task:
    return Task(
        device=device,
        run=RUN,
        task="t1",
        kind="train",
        backbone=BACKBONE,
        digest=sha256(LARGE).hexdigest(),
        lasts_seconds=60,
    )


def answer(**changes: object) -> TaskAnswer:
    known: dict[str, object] = {"run": RUN, "task": "t1", "outcome": "done"}
    return TaskAnswer(**(known | changes))  # type: ignore[arg-type]


def offered(desk, device: str) -> tuple[Task, bytes]:
    """Return the task that was put on the desk, as its device believes it."""
    sent = [o for o in desk.outgoing if o.address == ROUND_OFFER.at(device, RUN)]
    authority = desk.repository.authority()
    return believe_task(sent[-1].payload, authority=authority, device=device, run=RUN)


@pytest.fixture
def desk(tmp_path):
    desk = make_desk(tmp_path)
    for number, shares in enumerate((True, False)):
        device = f"d-shares-{number}"
        desk.registry.devices.add(
            device,
            key=f"{number:064x}",
            group="demo",
            hardware="generic-linux",
            state=DeviceState.ENROLLED,
            at_ms=NOW,
        )
        inventory = an_inventory(shares=shares)
        desk.registry.devices.presence(device, BOOT, 1, "online", at_ms=NOW)
        desk.registry.devices.inventory(device, BOOT, inventory, at_ms=NOW)
    yield desk
    desk.registry.close()


def test_large_arrays_stand_beside_the_task_and_make_its_message_again(tmp_path: Path):
    records = RoundRecords(tmp_path)
    frame, (shared,) = records.share(RUN, LARGE)
    assert len(frame) < 300
    content = records.read(shared.artifact.digest)
    assert join_message(frame, [(shared.at, content)]) == LARGE


def test_the_records_of_a_run_are_few_and_go_with_it(tmp_path: Path):
    records = RoundRecords(tmp_path)
    for seed in range(KEPT_RECORDS + 4):
        records.share(RUN, flower(weights(3000, seed)))
    assert len(list(tmp_path.iterdir())) <= 3 * KEPT_RECORDS
    records.forget(RUN)
    assert list(tmp_path.iterdir()) == []


def test_what_two_runs_share_stays_while_one_of_them_goes_on(tmp_path: Path):
    records = RoundRecords(tmp_path)
    _, (shared,) = records.share(RUN, LARGE)
    records.share("run-2", LARGE)
    records.forget(RUN)
    assert records.read(shared.artifact.digest)


def test_differences_stay_away_where_a_task_could_not_name_their_chunks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    records = RoundRecords(tmp_path)
    moved = {k: a * np.float32(1.0001) for k, a in weights(60_000).items()}
    records.share(RUN, LARGE)
    assert len(records.share(RUN, flower(moved))[1][0].artifact.sources) == 2
    monkeypatch.setattr(round_records, "MAX_HASH_CHARACTERS", 64)
    (shared,) = records.share(RUN, flower(moved))[1]
    assert [source.base for source in shared.artifact.sources] == [None]


def test_records_of_an_earlier_life_go_after_days(tmp_path: Path):
    _, (shared,) = RoundRecords(tmp_path).share(RUN, LARGE)
    later = RoundRecords(tmp_path)
    written_ms = int((tmp_path / shared.artifact.digest).stat().st_mtime * 1000)
    later.tidy(written_ms)
    assert list(tmp_path.iterdir())
    later.tidy(written_ms + 3 * 86_400_000)
    assert list(tmp_path.iterdir()) == []


def a_reply(records: RoundRecords) -> tuple[bytes, SentRecord, bytes, bytes]:
    """Return a reply, how its record is sent, the frame and the coded bytes."""
    _, (shared,) = records.share(RUN, LARGE)
    reply = flower(weights(60_000, 1), reply=True)
    frame, (cut,) = cut_message(reply, least=5000)
    form, coded = pack(cut.content, records.read(shared.artifact.digest))
    base = shared.artifact.digest if form == "xor" else None
    size = len(cut.content)
    return (
        reply,
        SentRecord(at=cut.at, size=size, form=form, base=base, length=len(coded)),
        frame,
        coded,
    )


def test_a_coded_answer_becomes_the_message_that_its_device_made(tmp_path: Path):
    records = RoundRecords(tmp_path)
    reply, sent, frame, coded = a_reply(records)
    said, message = whole_answer(records, answer(sent=(sent,)), frame + coded)
    assert message == reply
    assert (said.outcome, said.sent) == ("done", ())
    assert said.digest == sha256(reply).hexdigest()


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        pytest.param({"base": "ab" * 32, "form": "xor"}, "not kept here", id="another base"),
        pytest.param({"length": 2**20 * 60}, "claims more", id="longer than the attachment"),
        pytest.param({"size": 2**20 * 60}, "", id="another size"),
        pytest.param({"at": 2**25}, "cannot stand", id="behind the end"),
        pytest.param({"form": "int8", "base": None}, "without its base", id="no base"),
        pytest.param({"form": "weird"}, "", id="an unknown form"),
    ],
)
def test_an_answer_that_cannot_be_put_together_is_a_failed_one(tmp_path: Path, changes, why):
    records = RoundRecords(tmp_path)
    _, sent, frame, coded = a_reply(records)
    lie = replace(sent, **changes)
    said, message = whole_answer(records, answer(sent=(lie,)), frame + coded)
    assert (said.outcome, said.digest, message) == ("failed", None, b"")
    assert "its update cannot be read" in said.why
    assert why in said.why


def test_records_that_claim_more_than_a_message_are_refused_before_one_is_made(tmp_path: Path):
    lie = SentRecord(at=0, size=2**26, form="plain", length=0)
    said, _ = whole_answer(RoundRecords(tmp_path), answer(sent=(lie,) * 8), b"")
    assert "more than it holds" in said.why


def test_an_upload_of_other_bytes_than_its_answer_names_is_a_failed_one(tmp_path: Path):
    said, _ = whole_answer(
        RoundRecords(tmp_path), answer(upload=in_chunks(b"what was named")), b"what came"
    )
    assert said.outcome == "failed"
    assert "not those that the answer names" in said.why


def test_a_device_that_can_gets_a_frame_and_where_its_arrays_are(desk):
    round_traffic.offer(desk, task("d-shares-0"), LARGE, updates_asked="int8")
    said, frame = offered(desk, "d-shares-0")
    assert len(frame) < 300
    assert said.updates == "int8"
    assert said.digest == sha256(LARGE).hexdigest()
    assert [s.artifact.size for s in said.shared] == [
        cut_message(LARGE, least=1)[1][0].content.nbytes
    ]


def test_an_evaluation_is_never_answered_coarsely(desk):
    judged = replace(task("d-shares-0"), kind="evaluate")
    round_traffic.offer(desk, judged, LARGE, updates_asked="int8")
    assert offered(desk, "d-shares-0")[0].updates == "f32"


def test_a_device_of_before_gets_whole_messages_and_no_larger_ones(desk):
    round_traffic.offer(desk, task("d-shares-1"), SMALL, updates_asked="int8")
    said, message = offered(desk, "d-shares-1")
    assert (message, said.shared, said.updates) == (SMALL, (), "f32")
    before = len(desk.outgoing)
    round_traffic.offer(desk, task("d-shares-1"), LARGE)
    assert len(desk.outgoing) == before


def test_an_unknown_form_of_updates_is_refused_with_those_that_there_are():
    ended = CliRunner().invoke(start, ["motion", "--updates", "int9"])
    assert ended.exit_code == 2
    assert "topk:FRACTION" in ended.output


def test_weights_of_any_dtype_travel_without_loss(tmp_path: Path):
    records = RoundRecords(tmp_path)
    whole = flower({"d": np.arange(3000.0), "i": np.arange(3000), "h": np.ones(3000, np.float16)})
    frame, (shared,) = records.share(RUN, whole)
    assert join_message(frame, [(shared.at, records.read(shared.artifact.digest))]) == whole


def test_an_answer_that_nobody_waits_for_is_not_fetched(desk):
    said = answer(digest="ab" * 32, upload=in_chunks(LARGE))
    round_answers.take(desk, "d-shares-0", said, b"")
    assert list(desk.outgoing) == []
    assert not (desk.config.rounds / "uploads").exists()


def test_a_chunk_of_a_stranger_is_refused(desk):
    piece = Piece(name=bytes(8), index=0, total=1, content=b"x")
    with pytest.raises(UnsignedError, match="not an enrolled device"):
        round_answers.take_chunk(desk, "d-nobody", piece.encode())


def test_a_chunk_that_is_none_is_refused(desk):
    with pytest.raises(MalformedError):
        round_answers.take_chunk(desk, "d-shares-0", b"garbage")
