"""The built-in program beside plain NumPy, under each strategy, over real pipes."""

import subprocess
import sys

import numpy as np
import pytest

from agent.contract.tensors import (
    ArrayRecord,
    ConfigRecord,
    FlowerMessage,
    Metadata,
    MetricRecord,
    decode_message,
    encode_message,
)
from fleet.rounds.builtin import run_builtin
from fleet.rounds.pipe import Begin, Done, ManagerGoneError, Push, Replies, Reply
from fleet.rounds.strategies import RULES, Strategy

NODES = (3, 7, 11, 15, 19)
EXAMPLES = {3: 10, 7: 20, 11: 30, 15: 5, 19: 35}


def start():
    return {
        "weight": np.arange(12, dtype=np.float32).reshape(3, 4) / 10,
        "bias": np.zeros(3, np.float32),
    }


def metadata(**changes):
    fields = {"run_id": 5, "message_id": "m", "src_node_id": 1, "dst_node_id": 1}
    return Metadata(**{**fields, "message_type": "train", **changes})


def begin(strategy, rounds=2, arrays=None):
    content = {"arrays": ArrayRecord(arrays or start())}
    return Begin(
        run_id=5,
        seed=1,
        rounds=rounds,
        started_ms=1_700_000_000_000,
        minimum_replies=2,
        nodes=NODES,
        settings={"learning-rate": 0.5, "epochs": 3, "anchor": 0.1},
        arrays=encode_message(FlowerMessage(metadata=metadata(), content=content)),
        strategy=strategy,
    )


def learned(model, node, ordinal):
    """What a node makes of a model: a step of its own, which no float32 sum holds exactly."""
    chance = np.random.default_rng((node, ordinal))
    return {n: a + chance.normal(0, 0.1, a.shape).astype(np.float32) for n, a in model.items()}


class Fleet:
    """Answers every push; keeps what was pushed."""

    def __init__(self, silent=()) -> None:
        self.pushes, self.silent, self.waiting = [], silent, []

    def say(self, word):
        assert isinstance(word, Push)
        self.pushes.append(word)
        replies = []
        for instruction in word.instructions:
            asked = decode_message(instruction.content + word.shared)
            node = asked.metadata.dst_node_id
            assert node == instruction.node
            if node in self.silent:
                replies.append(Reply(node=node, why="it is silent"))
                continue
            made = {
                "arrays": ArrayRecord(learned(asked.content["arrays"].items, node, word.ordinal)),
                "metrics": MetricRecord({"num-examples": EXAMPLES[node], "loss": float(node)}),
            }
            told = FlowerMessage(metadata=metadata(src_node_id=node), content=made)
            replies.append(Reply(node=node, content=encode_message(told)))
        self.waiting.append(Replies(ordinal=word.ordinal, replies=tuple(replies[::-1])))

    def hear(self):
        return self.waiting.pop(0) if self.waiting else None


def final(done):
    assert isinstance(done, Done)
    return decode_message(done.arrays).content["arrays"].items


def run(strategy, **options):
    fleet = Fleet(options.pop("silent", ()))
    return final(run_builtin(begin(strategy, **options), strategy, fleet.say, fleet.hear)), fleet


def test_two_rounds_of_fedavg_are_plain_averaging_to_a_float32():
    found, _ = run(Strategy())
    model = {n: a.astype(np.float64) for n, a in start().items()}
    total = sum(EXAMPLES.values())
    for ordinal in (1, 2):
        rounded = {n: a.astype(np.float32) for n, a in model.items()}
        made = {node: learned(rounded, node, ordinal) for node in NODES}
        model = {
            n: sum(EXAMPLES[k] / total * made[k][n].astype(np.float64) for k in NODES)
            for n in model
        }
    for name, wanted in model.items():
        np.testing.assert_allclose(found[name], wanted, atol=1e-7)


@pytest.mark.parametrize("name", RULES)
def test_every_strategy_makes_the_same_bytes_twice_and_moves_the_model(name):
    (one, first), (two, second) = run(Strategy(name=name)), run(Strategy(name=name))
    assert first.pushes == second.pushes
    for array in ("weight", "bias"):
        assert one[array].tobytes() == two[array].tobytes()
        assert np.abs(one[array] - start()[array]).max() > 1e-3


def test_a_silent_node_costs_its_own_update_alone():
    found, _ = run(Strategy(), rounds=1, silent=(7, 19))
    model, here = start(), (3, 11, 15)
    made = [learned(model, k, 1)["bias"].astype(np.float64) for k in here]
    wanted = np.average(made, axis=0, weights=[EXAMPLES[k] for k in here])
    np.testing.assert_allclose(found["bias"], wanted, atol=1e-7)


def test_a_message_says_its_round_and_the_settings_and_is_the_same_for_all_but_its_address():
    _, fleet = run(Strategy(), rounds=1)
    (push,) = fleet.pushes
    asked = [decode_message(i.content + push.shared) for i in push.instructions]
    assert [(m.metadata.message_id, m.metadata.dst_node_id) for m in asked] == [
        (f"1.{n}", n) for n in NODES
    ]
    settings = asked[0].content["config"]
    assert isinstance(settings, ConfigRecord)
    assert dict(settings.items) == {
        "learning-rate": 0.5,
        "epochs": 3,
        "anchor": 0.1,
        "server-round": 1,
    }
    assert encode_message(asked[2]) == push.instructions[2].content + push.shared


def test_metrics_are_weighted_by_examples():
    fleet, strategy = Fleet(), Strategy()
    done = run_builtin(begin(strategy), strategy, fleet.say, fleet.hear)
    total = sum(EXAMPLES.values())
    assert done.metrics == {"loss": pytest.approx(sum(n * EXAMPLES[n] for n in NODES) / total)}


def test_a_manager_that_goes_is_no_failure_of_the_run():
    strategy = Strategy()
    with pytest.raises(ManagerGoneError):
        run_builtin(begin(strategy), strategy, Fleet().say, lambda: None)


def test_arrays_of_whole_numbers_are_refused_before_a_device_is_asked():
    from fleet.errors import RefusedError

    fleet, strategy = Fleet(), Strategy()
    asked = begin(strategy, arrays={"count": np.arange(3)})
    with pytest.raises(RefusedError, match="'count' is int64"):
        run_builtin(asked, strategy, fleet.say, fleet.hear)
    assert not fleet.pushes


def test_the_built_in_program_does_not_load_flwr():
    told = (
        "import sys, fleet.rounds.child; print(any(m.split('.')[0] == 'flwr' for m in sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", told], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "False"
