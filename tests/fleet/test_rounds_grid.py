"""What Flower sees of the fleet: each push answered once, in one order, by whom we verified."""

from collections import deque

import pytest
from flwr.app import ConfigRecord, RecordDict
from flwr.proto.message_pb2 import Message as ProtoMessage

from fleet.rounds.engine import node_of
from fleet.rounds.flower import ManagerGoneError, MqttGrid
from fleet.rounds.heads import begin_word
from fleet.rounds.pipe import Instruction, Push, Replies, Reply
from tests.small_rounds import DEVICES, plan, running_head

NODES = tuple(sorted(node_of(device) for device in DEVICES))


class Manager:
    """Keeps what the grid says, and answers each push with what the test put there."""

    def __init__(self) -> None:
        self.pushed: list[Push] = []
        self.answers: deque[Replies | None] = deque()
        self.seconds = 0.0
        self.grid = MqttGrid(
            begin_word(plan(participants=DEVICES), running_head(), NODES),
            self.pushed.append,
            self.answers.popleft,
            lambda: self.seconds,
        )
        self.grid.set_run(None)

    def look(self):
        self.seconds += 1
        return list(self.grid.get_node_ids())

    def push(self, nodes=NODES):
        content = RecordDict({"config": ConfigRecord({"round": 1})})
        sent = [self.grid.create_message(content, "train", node, "1") for node in nodes]
        return list(self.grid.send_and_receive(sent))


def reply(asked: Instruction, claims: int | None = None) -> Reply:
    """The reply of a node, which may claim to be another one."""
    message = ProtoMessage.FromString(asked.content)
    message.metadata.src_node_id = claims or asked.node
    return Reply(node=asked.node, content=message.SerializeToString())


def asked(manager: Manager) -> tuple[Instruction, ...]:
    """What a push of this grid looks like, without answering it."""
    manager.answers.append(None)
    with pytest.raises(ManagerGoneError):
        manager.push()
    return manager.pushed[-1].instructions


def test_replies_come_by_ascending_node_however_they_arrived():
    manager = Manager()
    replies = tuple(reply(one) for one in asked(Manager()))
    manager.answers.append(Replies(ordinal=1, replies=replies[::-1]))
    found = manager.push(NODES[::-1])
    assert [m.metadata.src_node_id for m in found] == list(NODES)


def test_who_answered_is_what_the_manager_verified_and_not_what_the_device_wrote():
    manager = Manager()
    first, *_ = asked(Manager())
    manager.answers.append(Replies(ordinal=1, replies=(reply(first, claims=NODES[2]),)))
    (found,) = manager.push()
    assert found.metadata.src_node_id == first.node
    assert found.metadata.dst_node_id == 1


def test_an_answer_to_another_push_is_not_taken():
    manager = Manager()
    replies = tuple(reply(one) for one in asked(Manager()))
    for ordinal in (2, 0):
        manager.answers.append(Replies(ordinal=ordinal, replies=replies))
    with pytest.raises(ValueError, match="something else than push 1"):
        manager.push()
    with pytest.raises(ValueError, match="something else than push 2"):
        manager.push()


def test_a_silent_node_has_no_reply_and_a_refused_one_an_error():
    manager = Manager()
    first, second, _ = asked(Manager())
    replies = (reply(first), Reply(node=second.node, why="it holds NaN"))
    manager.answers.append(Replies(ordinal=1, replies=replies))
    good, bad = manager.push()
    assert not good.has_error()
    assert bad.error.reason == "it holds NaN"


def test_the_same_pushes_of_a_restarted_program_are_the_same_bytes():
    first, second = Manager(), Manager()
    for manager in (first, second):
        for _ in range(2):
            asked(manager)
    assert first.pushed == second.pushed
    assert first.pushed[0].instructions != first.pushed[1].instructions


def test_one_push_to_a_node_twice_is_refused():
    with pytest.raises(ValueError, match="same node"):
        Manager().push((NODES[0], NODES[0]))


@pytest.mark.parametrize("kind", ["query", "query.what_have_you", "get_parameters"])
def test_what_no_device_takes_is_answered_with_the_reason_and_asks_nobody(kind):
    manager = Manager()
    content = RecordDict({"config": ConfigRecord({"a": 1})})
    sent = [manager.grid.create_message(content, kind, node, "") for node in NODES]
    found = list(manager.grid.send_and_receive(sent))
    assert not manager.pushed
    assert [m.metadata.src_node_id for m in found] == list(NODES)
    assert {m.error.reason for m in found} == {
        f"no device takes '{kind}': they take train and evaluate"
    }


def test_a_query_between_rounds_changes_no_byte_of_the_next_round():
    first, second = Manager(), Manager()
    content = RecordDict({"config": ConfigRecord({"a": 1})})
    query = [second.grid.create_message(content, "query", node, "") for node in NODES]
    assert len(list(second.grid.send_and_receive(query))) == len(NODES)
    assert asked(first) == asked(second)


def test_training_of_another_name_is_asked_of_devices():
    manager = Manager()
    content = RecordDict({"config": ConfigRecord({"a": 1})})
    manager.answers.append(None)
    with pytest.raises(ManagerGoneError):
        manager.grid.push_messages([manager.grid.create_message(content, "train.x", NODES[0], "")])
    assert [i.kind for i in manager.pushed[0].instructions] == ["train.x"]


def test_an_app_that_waits_for_more_devices_than_take_part_is_told_so():
    manager = Manager()
    for _ in range(61):
        assert manager.look() == list(NODES)
    with pytest.raises(ValueError, match="more devices than the 3 that take part"):
        manager.look()


def test_an_app_that_sends_between_its_looks_does_not_wait():
    manager = Manager()
    for _ in range(3):
        for _ in range(50):
            manager.look()
        asked(manager)
