"""Every strategy's arithmetic beside a plain one in NumPy, and that nothing sways its bits."""

import numpy as np
import pytest

from agent.errors import MalformedError
from fleet.errors import RefusedError
from fleet.rounds.aggregate import CHUNK, Mean, norm_of
from fleet.rounds.robust import Gathered, chosen_by_krum, distances, robust_step
from fleet.rounds.server_step import BETA_2, TAU, ServerStep
from fleet.rounds.strategies import Strategy


def arrays(seed, spread=0.1):
    chance = np.random.default_rng(seed)
    return {
        "weight": chance.normal(0, spread, (5, 7)).astype(np.float32),
        "bias": chance.normal(0, spread, 5).astype(np.float32),
    }


def moved(model, seed, far=0.01):
    step = arrays(seed, far)
    return {name: model[name] + step[name] for name in model}


def mean_of(model, updates, weights, threads=None):
    with Mean(model, threads) as mean:
        for update, weight in zip(updates, weights, strict=True):
            mean.fold(update, weight)
        return mean.step()


def wide(step):
    return np.concatenate([step["weight"].ravel(), step["bias"].ravel()]).astype(np.float64)


def gathered(model, updates):
    made = Gathered(model)
    for update in updates:
        made.add(update)
    return made


def test_the_streamed_mean_is_the_weighted_mean_of_the_steps():
    model = arrays(0)
    updates, weights = [moved(model, s) for s in range(1, 8)], [3, 1, 40, 7, 7, 900, 2]
    wanted = np.average([wide(u) - wide(model) for u in updates], axis=0, weights=weights)
    np.testing.assert_allclose(wide(mean_of(model, updates, weights)), wanted, atol=1e-15)


def test_threads_change_no_bit_of_a_mean():
    size = 9 * CHUNK + 17
    chance = np.random.default_rng(1)
    model = {"w": chance.normal(size=size).astype(np.float32)}
    updates = [{"w": model["w"] + np.float32(s)} for s in (0.25, -1.0, 3.0)]
    one, three = (mean_of(model, updates, (1, 2, 3), threads) for threads in (1, 3))
    assert one["w"].tobytes() == three["w"].tobytes()
    assert norm_of(updates[1], model, 1) == norm_of(updates[1], model, 3)
    updates[2]["w"][-1] = np.nan
    with pytest.raises(MalformedError, match="not finite"):
        norm_of(updates[2], model, 3)


def test_a_mean_of_nothing_and_an_array_of_whole_numbers_are_refused():
    with Mean(arrays(0)) as mean, pytest.raises(RefusedError, match="no updates"):
        mean.step()
    with pytest.raises(RefusedError, match="array 'count' is int64"):
        Mean({"count": np.arange(3)})


def test_a_norm_is_that_of_the_step_and_values_that_are_not_finite_have_none():
    model = arrays(0)
    update = moved(model, 3)
    assert norm_of(update, model) == pytest.approx(
        np.linalg.norm(wide(update) - wide(model)), rel=1e-5
    )
    for bad in (np.nan, np.inf, -np.inf):
        update["bias"][2] = bad
        with pytest.raises(MalformedError, match="'bias' holds values that are not finite"):
            norm_of(update, model)


def test_a_step_that_float32_cannot_square_still_has_a_norm():
    model = {"w": np.zeros(3, np.float32)}
    assert norm_of({"w": np.array([3e30, 0, 4e30], np.float32)}, model) == pytest.approx(5e30)


def test_median_and_trimmed_mean_are_taken_by_coordinate():
    model = arrays(0)
    updates = [moved(model, s) for s in range(1, 8)]
    steps = np.array([wide(u) for u in updates]) - wide(model)
    with gathered(model, updates) as all_of_them:
        median = robust_step(all_of_them, Strategy(name="median"))
        trimmed = robust_step(all_of_them, Strategy(name="trimmed-mean", trim=0.3))
    np.testing.assert_allclose(wide(median), np.median(steps, axis=0), atol=1e-16)
    inner = np.sort(steps, axis=0)[2:-2].mean(axis=0)
    np.testing.assert_allclose(wide(trimmed), inner, atol=1e-16)


def test_columns_of_more_than_one_block_are_put_back_in_their_places(monkeypatch):
    monkeypatch.setattr("fleet.rounds.robust.BLOCK_BYTES", 8 * 5 * 4)
    model = arrays(0)
    updates = [moved(model, s) for s in range(1, 6)]
    steps = np.array([wide(u) for u in updates]) - wide(model)
    with gathered(model, updates) as all_of_them:
        made = robust_step(all_of_them, Strategy(name="median"))
        apart = distances(all_of_them)
    np.testing.assert_allclose(wide(made), np.median(steps, axis=0), atol=1e-16)
    wanted = ((steps[:, None] - steps[None]) ** 2).sum(axis=2)
    np.testing.assert_allclose(apart, wanted, atol=1e-15)


def test_krum_never_picks_the_one_far_away_even_where_steps_are_tiny_beside_the_weights():
    for seed in range(40):
        model = {"w": np.random.default_rng(seed).normal(0, 100, 400).astype(np.float64)}
        chance = np.random.default_rng(seed + 1000)
        updates = [{"w": model["w"] + chance.normal(0, 1e-6, 400)} for _ in range(6)]
        updates.insert(seed % 7, {"w": model["w"] + chance.normal(0, 3e-6, 400)})
        with gathered(model, updates) as all_of_them:
            apart = distances(all_of_them)
        assert chosen_by_krum(apart, Strategy(name="krum")) != (seed % 7,)
        multi = chosen_by_krum(apart, Strategy(name="multi-krum"))
        assert (len(multi), seed % 7 in multi) == (6, False)


def test_krum_takes_one_update_and_multi_krum_the_mean_of_all_but_the_liars():
    model = arrays(0)
    updates = [moved(model, s) for s in range(1, 7)] + [moved(model, 9, far=5)]
    with gathered(model, updates) as all_of_them:
        one = wide(robust_step(all_of_them, Strategy(name="krum")))
        some = wide(robust_step(all_of_them, Strategy(name="multi-krum", byzantine=1)))
    steps = np.array([wide(u) for u in updates]) - wide(model)
    assert any(np.allclose(one, step, atol=1e-16) for step in steps[:-1])
    np.testing.assert_allclose(some, steps[:-1].mean(axis=0), atol=1e-15)


@pytest.mark.parametrize(
    ("asked", "needs"),
    [
        ({"name": "krum", "byzantine": 2}, 7),
        ({"name": "multi-krum"}, 5),
        ({"name": "median"}, 3),
        ({"name": "trimmed-mean", "trim": 0.1}, 10),
        ({"name": "trimmed-mean", "trim": 0.49}, 3),
    ],
)
def test_too_few_updates_for_a_rule_are_refused_with_how_many_it_needs(asked, needs):
    model, strategy = arrays(0), Strategy(**asked)
    assert strategy.needed_replies == needs
    updates = [moved(model, s) for s in range(1, needs)]
    with (
        gathered(model, updates) as few,
        pytest.raises(RefusedError, match=f"needs {needs} updates; {needs - 1} came"),
    ):
        robust_step(few, strategy)


def plainly(name, steps, rate):
    """The papers' loops over one flat model."""
    x, m, v = np.zeros(3), np.zeros(3), np.full(3, TAU**2)
    for d in steps:
        if name == "fedavgm":
            m = 0.9 * m + d
            x = x + rate * m
            continue
        m = 0.9 * m + 0.1 * d
        if name == "fedadam":
            v = BETA_2 * v + (1 - BETA_2) * d**2
        else:
            v = v - (1 - BETA_2) * d**2 * np.sign(v - d**2)
        x = x + rate * m / (np.sqrt(v) + TAU)
    return x


@pytest.mark.parametrize("name", ["fedavgm", "fedadam", "fedyogi"])
def test_server_optimisers_remember_what_the_papers_say(name):
    steps = [np.array([0.5, -2.0, 1e-4]), np.array([0.1, 1.0, 0.0]), np.array([-0.3, 0.0, 2.0])]
    optimiser = ServerStep(Strategy(name=name, server_learning_rate=0.3))
    model = {"w": np.zeros(3, np.float64)}
    for step in steps:
        model = optimiser.take(model, {"w": step.copy()})
    np.testing.assert_allclose(model["w"], plainly(name, steps, 0.3), rtol=1e-12)


def test_the_next_model_keeps_shape_and_dtype_and_is_never_without_an_end():
    model = arrays(0)
    step = {name: np.ones(a.size) for name, a in model.items()}
    made = ServerStep(Strategy(server_learning_rate=0.5)).take(model, step)
    assert (made["weight"].dtype, made["weight"].shape) == (np.dtype(np.float32), (5, 7))
    np.testing.assert_allclose(made["weight"], model["weight"] + np.float32(0.5), rtol=1e-6)
    with pytest.raises(RefusedError, match="not finite into array 'weight'"):
        ServerStep(Strategy()).take(model, {n: s * 1e39 for n, s in step.items()})


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        ({"name": "fedsgd"}, "there is no strategy 'fedsgd'; known are fedavg"),
        ({"server_learning_rate": 0.0}, "server learning rate of 0.0"),
        ({"server_learning_rate": float("nan")}, "server learning rate of nan"),
        ({"name": "fedavgm", "momentum": 1.0}, "momentum of 1.0"),
        ({"momentum": 0.5}, "fedavg has no momentum; it belongs to fedadam, fedavgm, fedyogi"),
        ({"name": "median", "trim": 0.1}, "median has no trim"),
        ({"name": "trimmed-mean", "trim": 0.5}, "trim of 0.5"),
        ({"name": "krum", "byzantine": -1}, "-1 byzantine devices"),
        ({"byzantine": 1}, "fedavg has no byzantine; it belongs to krum, multi-krum"),
    ],
)
def test_settings_that_a_strategy_cannot_use_are_refused_with_a_sentence(asked, sentence):
    with pytest.raises(RefusedError, match=sentence):
        Strategy(**asked)
