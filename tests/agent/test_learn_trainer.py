"""Head training on a device: it learns, it stays near what it was given, it tells no windows."""

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
from agent.errors import ConfigError, MalformedError, ModelError
from agent.learn.samples import LabelledWindows, Split, load_samples
from agent.learn.trainer import HeadTraining, LinearHead, answer_task, count_right, train_head

CLASSES, WIDTH = 3, 4


def blobs(count=90, seed=0, spread=0.4):
    chance = np.random.default_rng(seed)
    centres = np.eye(CLASSES, WIDTH) * 3 + 5
    y = np.arange(count) % CLASSES
    return (centres[y] + chance.normal(0, spread, (count, WIDTH))).astype(np.float32), y


def zero_head():
    return LinearHead(
        weight=np.zeros((CLASSES, WIDTH), np.float32), bias=np.zeros(CLASSES, np.float32)
    )


def device_windows(count=90, seed=0):
    """Windows whose embedding (their mean over time) is a blob."""
    x, y = blobs(count, seed)
    split = (np.arange(count) // CLASSES % 3).astype(np.uint8)
    return LabelledWindows(x=np.repeat(x[:, :, None], 8, axis=2), y=y.astype(np.int64), split=split)


def mean_over_time(windows):
    return windows.mean(axis=2).astype(np.float32)


def task_message(kind="train", *, head=None, **records):
    head = head or zero_head()
    metadata = Metadata(
        run_id=3, message_id="t-1", src_node_id=1, dst_node_id=77, message_type=kind
    )
    content = {"arrays": ArrayRecord({"weight": head.weight, "bias": head.bias}), **records}
    return encode_message(FlowerMessage(metadata=metadata, content=content))


def test_training_learns_what_the_windows_say():
    x, y = blobs()
    made = train_head(zero_head(), x, y, HeadTraining())
    strangers, labels = blobs(seed=1)
    assert count_right(made, strangers, labels).accuracy > 0.97


def test_a_stronger_anchor_stays_nearer_to_the_head_that_was_given():
    x, y = blobs()
    moved = [
        float(np.abs(train_head(zero_head(), x, y, HeadTraining(anchor=anchor)).weight).sum())
        for anchor in (0.0, 0.1, 1.0)
    ]
    assert moved[0] > moved[1] > moved[2] > 0


def after_rounds(rounds, **records):
    """Return the head that one device comes to when it is alone in a run."""
    head = zero_head()
    for _ in range(rounds):
        message = task_message(
            head=head, config=ConfigRecord({"anchor": 0.2, "epochs": 50}), **records
        )
        reply = decode_message(
            answer_task(message, "train", mean_over_time, device_windows()).reply
        )
        arrays = reply.content["arrays"].items
        head = LinearHead(weight=arrays["weight"], bias=arrays["bias"])
    return head


def test_an_anchor_at_the_running_head_holds_over_any_number_of_rounds():
    still = zero_head()
    running = ArrayRecord({"weight": still.weight, "bias": still.bias})
    held = [float(np.abs(after_rounds(n, running=running).weight).sum()) for n in (5, 40)]
    loose = [float(np.abs(after_rounds(n).weight).sum()) for n in (5, 40)]
    assert held[1] == pytest.approx(held[0], rel=1e-3)
    assert loose[1] > 1.5 * loose[0] > held[0]


def test_in_the_first_round_both_anchors_are_one():
    still = zero_head()
    running = ArrayRecord({"weight": still.weight, "bias": still.bias})
    assert np.array_equal(after_rounds(1, running=running).weight, after_rounds(1).weight)


def test_a_running_head_of_another_shape_is_no_anchor():
    other = ArrayRecord({"weight": np.zeros((2, WIDTH), np.float32), "bias": np.zeros(2, "f4")})
    with pytest.raises(MalformedError, match="different shapes"):
        answer_task(task_message(running=other), "train", mean_over_time, device_windows())


def test_an_anchor_that_overshoots_ends_in_a_refusal_and_not_in_a_head():
    x, y = blobs()
    with pytest.raises(ModelError, match="not finite"):
        train_head(zero_head(), x, y, HeadTraining(anchor=100, epochs=300))


def test_training_follows_the_slope_of_its_own_loss():
    """Compared with finite differences of cross-entropy plus anchor, on raw embeddings."""
    x, y = blobs(30)
    x = (x - x.mean(axis=0)) / (x.std(axis=0) + 1e-3)
    start = LinearHead(
        weight=np.random.default_rng(2).normal(size=(CLASSES, WIDTH)).astype(np.float32),
        bias=np.array([0.1, -0.2, 0.3], np.float32),
    )
    rate, deviation = 1e-3, x.std(axis=0) + 1e-3

    def loss(weight):
        logits = x @ weight.T + start.bias
        logits = logits - logits.max(axis=1, keepdims=True)
        chances = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        return -np.log(chances[np.arange(len(y)), y]).mean()

    made = train_head(start, x, y, HeadTraining(learning_rate=rate, epochs=1, anchor=0))
    step = 1e-4
    nudge = np.zeros((CLASSES, WIDTH))
    nudge[1, 2] = step
    weight = start.weight.astype(np.float64)
    slope = (loss(weight + nudge) - loss(weight - nudge)) / (2 * step)
    moved = float(made.weight[1, 2] - start.weight[1, 2])
    assert moved == pytest.approx(-rate * slope / deviation[2] ** 2, rel=2e-2)


def test_two_trainings_of_the_same_windows_give_the_same_bytes():
    windows = device_windows()
    first, second = (
        answer_task(task_message(), "train", mean_over_time, windows) for _ in range(2)
    )
    assert first == second


def test_a_train_reply_carries_head_and_figures_and_the_quality_of_the_head_received():
    answered = answer_task(task_message(), "train", mean_over_time, device_windows())
    reply = decode_message(answered.reply)
    assert reply.metadata.reply_to_message_id == "t-1"
    assert (reply.metadata.src_node_id, reply.metadata.dst_node_id) == (77, 1)
    assert set(reply.content) == {"arrays", "metrics"}
    assert set(reply.content["arrays"].items) == {"weight", "bias"}
    figures = reply.content["metrics"].items
    assert set(figures) == {"num-examples", "train-loss", "train-accuracy"}
    assert figures["num-examples"] == 30
    assert figures["train-accuracy"] > 0.97
    assert answered.decide.windows == answered.withheld.windows == 30
    assert answered.decide.accuracy == pytest.approx(1 / 3)


def test_an_evaluate_task_judges_candidate_and_running_head_on_the_same_windows():
    x, y = blobs()
    good = train_head(zero_head(), x, y, HeadTraining())
    poor = zero_head()
    message = task_message(
        "evaluate",
        head=good,
        running=ArrayRecord({"weight": poor.weight, "bias": poor.bias}),
    )
    answered = answer_task(message, "evaluate", mean_over_time, device_windows(seed=5))
    assert answered.decide.accuracy > 0.97
    assert answered.decide_running.accuracy == pytest.approx(1 / 3)
    assert answered.withheld.accuracy > answered.withheld_running.accuracy
    assert isinstance(decode_message(answered.reply).content["metrics"], MetricRecord)


def test_train_windows_alone_teach():
    """Nonsense in decide and withheld windows changes no bit of the reply."""
    windows = device_windows()
    others = windows.split != Split.TRAIN
    spoiled = LabelledWindows(
        x=np.where(others[:, None, None], np.float32(9), windows.x),
        y=np.where(others, 0, windows.y),
        split=windows.split,
    )
    replies = [
        answer_task(task_message(), "train", mean_over_time, w).reply for w in (windows, spoiled)
    ]
    assert replies[0] == replies[1]


BAD = LinearHead(weight=np.full((CLASSES, WIDTH), np.nan, np.float32), bias=zero_head().bias)
WIDE = LinearHead(weight=np.zeros((CLASSES, WIDTH + 1), np.float32), bias=zero_head().bias)


@pytest.mark.parametrize(
    ("message", "kind", "sentence"),
    [
        pytest.param(task_message("evaluate"), "train", "another kind", id="kind"),
        pytest.param(task_message(head=BAD), "train", "not finite", id="NaN"),
        pytest.param(task_message(head=WIDE), "train", "width 5 does not fit", id="width"),
        pytest.param(
            task_message(arrays=ArrayRecord({"weight": np.zeros(3, np.float32)})),
            "train",
            "not a weight and a bias",
            id="names",
        ),
        pytest.param(
            task_message(config=ConfigRecord({"epochs": 10**9})), "train", "epochs", id="for ever"
        ),
        pytest.param(
            task_message(config=ConfigRecord({"anchor": float("nan")})), "train", "anchor", id="nan"
        ),
        pytest.param(b"garbage", "train", "a field of|wire type|number", id="garbage"),
    ],
)
def test_a_task_that_does_not_fit_is_refused(message, kind, sentence):
    with pytest.raises(MalformedError, match=sentence):
        answer_task(message, kind, mean_over_time, device_windows())


def test_labels_that_the_head_does_not_know_are_named():
    x, y = blobs()
    with pytest.raises(ModelError, match="3 classes do not hold"):
        train_head(zero_head(), x, y + 1, HeadTraining())


def write_windows(path, **changes):
    windows = device_windows()
    arrays = {"x": windows.x, "y": windows.y, "split": windows.split, **changes}
    np.savez(path, **{n: a for n, a in arrays.items() if a is not None})
    return path


def test_a_file_of_windows_is_read_with_its_splits(tmp_path):
    found = load_samples(write_windows(tmp_path / "w.npz"))
    assert [found.count(s) for s in Split] == [30, 30, 30]
    assert found.of(Split.DECIDE)[0].shape == (30, WIDTH, 8)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"x": None}, "no array 'x'"),
        ({"x": np.zeros((90, 4, 8))}, "'x' is float64"),
        ({"x": np.zeros((90, 32), np.float32)}, "2 dimensions"),
        ({"y": np.zeros(89, np.int64)}, "89 labels"),
        ({"y": np.full(90, -1)}, "not a class number"),
        ({"split": np.full(90, 3, np.uint8)}, "'split' holds 3"),
        ({"x": np.full((90, 4, 8), np.inf, np.float32)}, "not finite"),
        ({"x": np.array([{}], object)}, "not a file of labelled windows"),
    ],
)
def test_a_file_of_windows_that_is_wrong_is_refused_by_name(tmp_path, changes, sentence):
    path = write_windows(tmp_path / "w.npz", **changes)
    with pytest.raises(ConfigError, match=sentence):
        load_samples(path)


def test_a_missing_or_torn_file_is_one_sentence(tmp_path):
    with pytest.raises(ConfigError, match="there is no file"):
        load_samples(tmp_path / "none.npz")
    path = write_windows(tmp_path / "w.npz")
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(ConfigError, match="not a file of labelled windows"):
        load_samples(path)
