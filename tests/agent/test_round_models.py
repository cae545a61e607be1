"""Large arrays of a round, down to devices and up again, through the real rooms of both sides."""

from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace

from agent.contract.rounds import UploadRequest
from agent.daemon.round_answers import MAX_SENT_TIMES
from tests.shared_rounds import World, arrays_of, flower, weights

MODEL_BYTES = 400_000


def stepped(arrays, step: float = 1e-4):
    return {name: array + np.float32(step) for name, array in arrays.items()}


def same(found, wanted) -> bool:
    return all(np.array_equal(found[name], wanted[name]) for name in wanted)


def test_a_model_larger_than_a_message_comes_down_and_its_update_goes_up(tmp_path: Path):
    world = World(tmp_path)
    device = world.device("d-one")
    world.offer(flower(weights()), "t1", to="d-one")
    world.settle()
    answer, reply = world.replies["t1"]
    assert answer.outcome == "done"
    assert same(arrays_of(reply), stepped(weights()))
    assert device.alarms == []


def test_an_update_travels_losslessly_as_its_difference(tmp_path: Path):
    world = World(tmp_path)
    device = world.device("d-one")
    world.offer(flower(weights()), "t1", to="d-one")
    world.settle()
    (said,) = device.said
    assert [sent.form for sent in said.sent] == ["xor"]
    assert device.up_bytes < 0.75 * MODEL_BYTES
    assert device.down_bytes < 0.95 * MODEL_BYTES


def test_the_same_model_is_not_fetched_twice(tmp_path: Path):
    world = World(tmp_path)
    device = world.device("d-one")
    message = flower(weights())
    world.offer(message, "t1", to="d-one")
    world.settle()
    fetched = device.down_bytes
    world.offer(message, "t2", to="d-one")
    world.settle()
    device.boot()
    world.offer(message, "t3", to="d-one")
    world.settle()
    assert device.down_bytes == fetched
    assert {"t1", "t2", "t3"} <= world.replies.keys()


def test_the_next_model_comes_as_its_difference_to_the_one_before(tmp_path: Path):
    world = World(tmp_path)
    old, new = world.device("d-old"), world.device("d-new")
    world.offer(flower(weights()), "t1", to="d-old")
    world.settle()
    first = old.down_bytes
    following = flower(stepped(weights()))
    world.offer(following, "t2", to="d-old")
    world.offer(following, "t3", to="d-new")
    world.settle()
    assert old.down_bytes - first < 0.8 * first
    assert new.down_bytes > 0.98 * first
    for task in ("t2", "t3"):
        assert same(arrays_of(world.replies[task][1]), stepped(stepped(weights())))


def test_what_many_devices_want_travels_once_and_not_for_each(tmp_path: Path):
    world = World(tmp_path)
    names = [f"d-{n:02}" for n in range(12)]
    for name in names:
        world.device(name)
    for node, name in enumerate(names):
        world.offer(flower(weights(), node=node + 2), f"t-{name}", to=name)
    world.settle()
    assert len(world.replies) == len(names)
    assert world.sent_bytes < 4 * MODEL_BYTES, "two came before anybody knew of the third"


@pytest.mark.parametrize(
    ("form", "share"), [("f16", 0.5), ("int8", 0.27), ("int4", 0.15), ("topk:0.05", 0.1)]
)
def test_a_coarse_update_costs_fewer_bytes_and_comes_near(tmp_path: Path, form, share):
    world = World(tmp_path)
    device = world.device("d-one")
    world.offer(flower(weights()), "t1", to="d-one", updates=form)
    world.settle()
    answer, reply = world.replies["t1"]
    assert answer.outcome == "done"
    found = arrays_of(reply)
    assert np.abs(found["weight"] - stepped(weights())["weight"]).max() <= 1.01e-4
    assert device.up_bytes < share * MODEL_BYTES


def test_small_heads_are_sent_coarsely_as_well(tmp_path: Path):
    world = World(tmp_path)
    device = world.device("d-one")
    task = world.offer(flower(weights(600)), "t1", to="d-one", updates="int8")
    world.settle()
    assert task.shared == ()
    assert [sent.form for sent in device.said[0].sent] == ["int8"]
    assert np.allclose(
        arrays_of(world.replies["t1"][1])["weight"], weights(600)["weight"] + 1e-4, atol=2e-6
    )


def test_what_an_update_left_out_comes_with_the_next_ones_of_its_run(tmp_path: Path):
    world = World(tmp_path)
    world.device("d-one")
    arrays = weights(2000)
    moved = np.zeros(2000)
    for number in range(40):
        world.offer(flower(arrays), f"t-{number}", to="d-one", updates="topk:0.05")
        world.settle()
        moved += arrays_of(world.replies[f"t-{number}"][1])["weight"] - arrays["weight"]
    assert np.count_nonzero(moved) == 2000
    assert abs(moved.mean() / 40 / 1e-4 - 1) < 0.3


def test_a_lost_chunk_is_asked_for_again(tmp_path: Path):
    world = World(tmp_path, loses=3)
    world.device("d-one")
    world.offer(flower(weights()), "t1", to="d-one")
    world.settle()
    assert "t1" in world.replies


def test_an_upload_goes_on_after_the_manager_was_started_again(tmp_path: Path):
    world = World(tmp_path)
    device = world.device("d-one")
    device.step = 0.3  # what differs everywhere does not compress
    message = flower(weights(800_000))
    world.offer(message, "t1", to="d-one")
    world.run_until(lambda: bool(world.pieces))
    world.take_chunks()
    already = len(list((tmp_path / "uploads").iterdir()))
    world.start()
    world.offer(message, "t1", to="d-one")
    world.settle()
    assert already == 1
    assert same(arrays_of(world.replies["t1"][1]), stepped(weights(800_000), 0.3))
    whole = device.said[0].upload
    assert whole is not None
    assert device.up_bytes < whole.size + 20_000, "no chunk came twice"


def test_a_model_that_the_manager_does_not_keep_any_more_puts_the_task_off(tmp_path: Path):
    world = World(tmp_path)
    device = world.device("d-one")
    task = world.offer(flower(weights()), "t1", to="d-one")
    world.records.forget("run-1")
    world.settle()
    (said,) = device.said
    assert (said.task, said.outcome) == (task.task, "deferred")
    assert "did not come" in said.why
    world.offer(flower(weights()), "t1", to="d-one")
    world.settle()
    assert "t1" in world.replies


def test_a_device_that_hears_nothing_puts_the_task_off(tmp_path: Path):
    world = World(tmp_path)
    device = world.device("d-one")
    device.online = False
    world.offer(flower(weights()), "t1", to="d-one")
    world.settle()
    device.online = True
    world.offer(flower(weights()), "t1", to="d-one")
    world.settle()
    assert "t1" in world.replies


def test_arrays_that_were_damaged_on_the_disk_are_fetched_anew(tmp_path: Path):
    world = World(tmp_path)
    device = world.device("d-one")
    message = flower(weights())
    world.offer(message, "t1", to="d-one")
    world.settle()
    for name in device.disk.names("models"):
        device.disk.path(f"models/{name}").write_bytes(b"damaged")
    world.offer(message, "t2", to="d-one")
    world.settle()
    assert device.said[-1].outcome == "deferred"
    world.offer(message, "t2", to="d-one")
    world.settle()
    assert "t2" in world.replies


def test_a_task_whose_parts_make_another_message_is_refused(tmp_path: Path):
    world = World(tmp_path)
    device = world.device("d-one")
    message = flower(weights())
    frame, shared = world.records.share("run-1", message)
    task = world.offer(message, "t1", to="d-one")
    world.settle()
    lie = replace(task, task="t2", digest="0" * 64)
    device.learning.offered(lie, frame, lambda: None)
    world.settle()
    assert device.said[-1].task == "t2"
    assert device.said[-1].outcome == "deferred"
    assert "not the signed one" in device.said[-1].why
    assert shared == task.shared


def test_old_models_make_room_for_new_ones(tmp_path: Path):
    world = World(tmp_path)
    device = world.device("d-one", quota_bytes=3 * MODEL_BYTES)
    for number in range(6):
        world.offer(flower(weights(seed=number)), f"t-{number}", to="d-one")
        world.settle()
    assert len(world.replies) == 6
    kept = [device.disk.path(f"models/{n}").stat().st_size for n in device.disk.names("models")]
    assert sum(kept) <= 3 * MODEL_BYTES


def test_chunks_of_an_answer_are_sent_some_times_and_not_for_ever(tmp_path: Path):
    world = World(tmp_path)
    device = world.device("d-one")
    world.offer(flower(weights()), "t1", to="d-one")
    world.settle()
    (said,) = device.said
    assert said.upload is not None
    request = UploadRequest(task=said.task, a=said.upload.digest, r=((0, 1),))
    before = device.up_bytes
    for _ in range(3 * MAX_SENT_TIMES):
        device.learning.upload_asked("run-1", request)
    assert device.up_bytes - before < MAX_SENT_TIMES * 70_000
    device.learning.connected()
    device.learning.upload_asked("run-1", request)
    assert device.up_bytes > before
