"""What may go wrong around a running agent: kills, a full disk, rotten bytes, rounds."""

import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from random import Random

import numpy as np
import pytest

from agent.contract.rounds import Task
from agent.contract.tensors import (
    ArrayRecord,
    FlowerMessage,
    Metadata,
    decode_message,
    encode_message,
)
from tests.agents import read_status
from tests.benches import LABELLED, PIPELINE, Bench, placement
from tests.brokers import eventually
from tests.small_models import classifier

pytestmark = pytest.mark.broker


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of eight MiB where the device keeps everything."""
    folder = tmp_path / "device"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)],
        capture_output=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip("no right to mount a small file system")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(path: Path) -> None:
    """Write until the disk is full."""
    with suppress(OSError), path.open("wb", buffering=0) as file:
        while True:
            file.write(b"x" * 4096)


def head_task(kind: str = "train") -> bytes:
    head = {"weight": np.zeros((3, 4), np.float32), "bias": np.zeros(3, np.float32)}
    metadata = Metadata(
        run_id=3, message_id="t-1", src_node_id=1, dst_node_id=77, message_type=kind
    )
    message = FlowerMessage(metadata=metadata, content={"arrays": ArrayRecord(head)})
    return encode_message(message)


def test_kills_at_any_moment_of_an_update_end_in_the_new_release_reported_once(tmp_path, manager):
    bench = Bench(tmp_path, manager)
    old = manager.publish(classifier(0), placement(1))
    new = manager.publish(classifier(0, scale=1.01), placement(2))
    with bench.run() as agent:
        bench.install(agent, old)
        manager.assign(bench.device, new)
        agent.kill()
    chance = Random(11)
    for _ in range(2):
        with bench.run() as agent:
            moment = chance.uniform(0.4, 1.6)
            eventually(lambda: agent.child.poll() is None, 5)
            with pytest.raises(subprocess.TimeoutExpired):
                agent.child.wait(moment)
            agent.kill()
    connections = agent.said().count("event=connected")
    with bench.run() as agent:
        bench.until(agent, lambda: agent.said().count("event=connected") > connections)
        bench.until(agent, lambda: bench.current() == new.digest)
        bench.until(agent, lambda: bool(bench.heard.outcome_of(new.digest)))
        assert agent.stop() == 0
    outcomes = {e.id for e in bench.heard.events("update") if e.release == new.digest}
    assert len(outcomes) == 1
    assert set(bench.heard.outcome_of(new.digest)) == {"succeeded"}
    status = read_status(bench.folder)
    assert status.outbox.dropped == status.outbox.pending == 0
    assert status.outbox.appended == len(bench.heard.reports)


def test_a_task_of_a_round_is_trained_in_a_child_and_answered_once(tmp_path, manager):
    bench = Bench(tmp_path, manager, PIPELINE + LABELLED + "train = true\n")
    built = manager.publish(classifier(0), placement(1))
    task = Task(
        device=bench.device,
        run="run-1",
        task="task-1",
        kind="train",
        backbone=built.digest,
        digest="0" * 64,
        lasts_seconds=60,
    )
    with bench.run() as agent:
        bench.until(agent, lambda: bool(bench.heard.inventory))
        manager.offer(task, head_task())
        bench.until(agent, lambda: len(bench.heard.answers) == 1)
        assert bench.heard.answers[0][0].outcome == "declined"
        bench.install(agent, built)
        manager.offer(task, head_task())
        bench.until(agent, lambda: len(bench.heard.answers) == 2)
        manager.offer(task, head_task())
        bench.until(agent, lambda: len(bench.heard.answers) == 3)
        assert agent.stop() == 0
    answer, reply = bench.heard.answers[1]
    assert answer.outcome == "done", answer.why
    assert answer.decide is not None
    assert answer.decide.windows == 40
    trained = decode_message(reply).content
    assert isinstance(trained, dict)
    assert isinstance(trained["arrays"], ArrayRecord)
    assert np.abs(trained["arrays"].items["weight"]).sum() > 0
    assert bench.heard.answers[2] == (answer, reply)
    assert agent.said().count("event=task-taken") == 1


def test_a_full_disk_stops_no_inference_and_loses_no_number(small_disk, manager):
    bench = Bench(small_disk.parent, manager, "reserve_bytes = 0\n" + PIPELINE)
    built = manager.publish(classifier(0), placement(1))
    with bench.run() as agent:
        bench.install(agent, built)
        filler = small_disk / "filler"
        fill(filler)
        bench.until(agent, lambda: "disk-full" in agent.said())
        before = len(bench.heard.telemetry())
        filler.unlink()
        bench.until(agent, lambda: len(bench.heard.telemetry()) > before + 1)
        assert agent.stop() == 0
    numbers = sorted(sequence for _, sequence in bench.heard.reports)
    assert numbers == list(range(1, len(numbers) + 1))
    assert read_status(bench.folder).outbox.pending == 0


def test_an_artifact_that_the_manager_does_not_keep_ends_the_try_at_once(tmp_path, manager):
    bench = Bench(tmp_path, manager)
    old = manager.publish(classifier(0), placement(1))
    gone = manager.publish(classifier(0, scale=1.01), placement(2), only_manifest=True)
    with bench.run() as agent:
        bench.install(agent, old)
        manager.assign(bench.device, gone)
        bench.until(agent, lambda: bool(bench.heard.outcome_of(gone.digest)), seconds=20)
        assert bench.current() == old.digest
    (event,) = [e for e in bench.heard.events("update") if e.release == gone.digest]
    assert (event.outcome, event.code, event.retryable) == ("failed_no_change", "unavailable", True)
    assert "keeps no such artifact" in event.why


def test_no_room_for_a_release_is_one_sentence_and_it_is_tried_again(tmp_path, manager):
    bench = Bench(tmp_path, manager, f"reserve_bytes = {2**49}\n" + PIPELINE)
    built = manager.publish(classifier(0), placement(1))
    with bench.run() as agent:
        manager.assign(bench.device, built)
        bench.until(agent, lambda: bench.heard.outcome_of(built.digest) == ["failed_no_change"])
        bench.until(agent, lambda: agent.said().count("event=fetch-failed") >= 2)
        agent.stop()
    event = next(e for e in bench.heard.events("update") if e.release == built.digest)
    assert (event.code, event.retryable) == ("disk-full", True)
    assert len(bench.heard.events("update")) == 1


def test_a_running_model_whose_bytes_rotted_is_replaced_by_the_one_before(tmp_path, manager):
    bench = Bench(tmp_path, manager)
    old = manager.publish(classifier(0), placement(1))
    new = manager.publish(classifier(0, scale=1.01), placement(2))
    with bench.run() as agent:
        bench.install(agent, old)
        bench.install(agent, new)
        assert agent.stop() == 0
    model = new.release.variants[0].model.digest
    rotten = bench.folder / "state" / "store" / model
    rotten.write_bytes(rotten.read_bytes()[:-1] + b"?")
    with bench.run() as agent:
        bench.until(agent, lambda: "event=serve-failed" in agent.said())
        bench.until(agent, lambda: "failed_rolled_back" in bench.heard.outcome_of(new.digest))
        bench.until(agent, lambda: bench.current() in {old.digest, new.digest})
        ran = {old.digest, new.digest}
        bench.until(agent, lambda: ran & {w.release for w in bench.heard.telemetry()[-1].windows})
        agent.stop()


def test_a_recording_that_is_not_there_is_an_alarm_and_condemns_no_release(tmp_path, manager):
    bench = Bench(tmp_path, manager)
    (bench.folder / "recording.npz").unlink()
    built = manager.publish(classifier(0), placement(1))
    with bench.run() as agent:
        manager.assign(bench.device, built)
        bench.until(agent, lambda: any(e.code == "source" for e in bench.heard.events("alarm")))
        bench.until(agent, lambda: "phase=probing" in agent.said())
        assert bench.heard.outcome_of(built.digest) == []
        agent.stop()
    assert built.digest not in read_status(bench.folder).slots["motion"].denied


def test_a_disk_that_is_full_before_the_start_keeps_nobody_from_inference(small_disk, manager):
    bench = Bench(small_disk.parent, manager, "reserve_bytes = 0\n" + PIPELINE)
    (small_disk / "agent.log").symlink_to(small_disk.parent / "agent.log")
    built = manager.publish(classifier(0), placement(1))
    with bench.run() as agent:
        bench.install(agent, built)
        assert agent.stop() == 0
    filler, served = small_disk / "filler", agent.said().count("event=serving")
    fill(filler)
    said = len(bench.heard.presence)
    with bench.run() as agent:
        bench.until(agent, lambda: "event=life-not-counted code=disk-full" in agent.said())
        bench.until(agent, lambda: agent.said().count("event=serving") > served)
        assert len(bench.heard.presence) == said  # an uncounted life speaks to nobody
        before = len(bench.heard.telemetry())
        filler.unlink()
        bench.until(agent, lambda: len(bench.heard.telemetry()) > before + 1)
        assert agent.stop() == 0
    (alarm,) = [e for e in bench.heard.events("alarm") if "started without" in e.why]
    assert (alarm.code, "boot.json" in alarm.why) == ("disk-full", True)
    counters = sorted({boot.counter for boot, _ in bench.heard.reports})
    assert counters == list(range(counters[0], counters[0] + len(counters)))
    assert read_status(bench.folder).outbox.pending == 0
