"""A device takes, defers or declines a task by itself, and says why."""

from dataclasses import replace

import pytest

from agent.contract.rounds import Task
from agent.learn.offer import Accept, Conditions, Decline, Defer, decide

BACKBONE = "ab" * 32


def task(kind="train", device="d-me", backbone=BACKBONE):
    return Task(
        device=device,
        run="run-1",
        task="t-1",
        kind=kind,
        backbone=backbone,
        digest="cd" * 32,
        lasts_seconds=60,
    )


WILLING = Conditions(
    device="d-me",
    trains=True,
    evaluates=True,
    train_windows=100,
    decide_windows=30,
    backbones=frozenset({BACKBONE}),
)


@pytest.mark.parametrize("kind", ["train", "evaluate"])
def test_a_willing_device_accepts(kind):
    assert decide(task(kind), WILLING) == Accept()


def test_the_same_task_offered_again_while_it_is_done_is_accepted():
    assert decide(task(), replace(WILLING, busy_with="t-1")) == Accept()


def test_a_bystander_evaluates_but_does_not_train():
    bystander = replace(WILLING, trains=False, train_windows=0)
    assert isinstance(decide(task("train"), bystander), Decline)
    assert decide(task("evaluate"), bystander) == Accept()


@pytest.mark.parametrize(
    ("offered", "change", "kind", "sentence"),
    [
        (task(device="d-other"), {}, Decline, "d-other"),
        (task(), {"trains": False}, Decline, "does not let it train"),
        (task("evaluate"), {"evaluates": False}, Decline, "does not let it evaluate"),
        (task(), {"train_windows": 5}, Decline, "5 train windows; at least 20"),
        (task("evaluate"), {"decide_windows": 0}, Decline, "0 decide windows"),
        (task(backbone="ef" * 32), {}, Decline, "not running here"),
        (task(), {"updating": True}, Defer, "update"),
        (task(), {"unready": "not counted yet", "train_windows": 0}, Defer, "not counted"),
        (task(), {"busy_with": "t-9"}, Defer, "t-9"),
    ],
)
def test_the_answer_says_why_not(offered, change, kind, sentence):
    answer = decide(offered, replace(WILLING, **change))
    assert isinstance(answer, kind)
    assert sentence in answer.why
