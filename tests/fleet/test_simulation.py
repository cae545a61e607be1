"""A federated run on simulated devices: the fleet's own code, without a fleet."""

import json

import numpy as np
import pytest

from agent.learn.samples import LabelledWindows, Split
from fleet.errors import ConfigError, RefusedError
from fleet.rounds.events import Training
from fleet.rounds.heads import HeadArrays
from fleet.rounds.strategies import Strategy
from fleet.simulation.devices import deal, embedded, read_devices
from fleet.simulation.figures import summarise
from fleet.simulation.rounds import Settings, simulate, train
from tests.small_rounds import (
    CLASSES,
    DEVICES,
    WIDTH,
    SmallDevice,
    World,
    conductor,
    drive,
    plan,
    running_head,
)


def labelled(seed, count=120, shift=0.0):
    """Windows of one device that are embedded already, moved by ``shift``."""
    chance = np.random.default_rng(seed)
    y = np.arange(count) % CLASSES
    x = np.eye(CLASSES, WIDTH)[y] * 2 + shift + chance.normal(0, 0.4, (count, WIDTH))
    split = (np.arange(count) // CLASSES % 3).astype(np.uint8)
    windows = LabelledWindows(
        x=np.zeros((count, 1, 1), np.float32), y=y.astype(np.int64), split=split
    )
    return embedded(windows, x.astype(np.float32))


def people(count=6):
    return {f"person-{n}": labelled(n, shift=0.3 * n) for n in range(count)}


def poor_head():
    return HeadArrays(weight=-running_head().weight, bias=running_head().bias)


def trained(run):
    return [d for d in run.devices if d.part == "trained"]


def test_devices_improve_on_windows_that_nothing_was_decided_with():
    run = simulate(poor_head(), people(), Settings(rounds=3, guard=frozenset({"person-5"})))
    assert [r.round for r in run.rounds] == [0, 1, 2, 3]
    assert run.rounds[-1].withheld > run.rounds[0].withheld + 0.2
    assert [r.replies for r in run.rounds] == [0, 5, 5, 5]
    assert [d.part for d in run.devices] == ["trained"] * 5 + ["guard"]
    assert all(d.receives for d in trained(run))
    told = summarise([run])
    assert (told.trained.devices, told.guard.devices) == (5, 1)
    assert told.trained.low < told.trained.change < told.trained.high
    assert told.personal.after >= 0.9
    assert [d.device for d in run.devices if d.withheld_personal is None] == ["person-5"]


def test_the_same_seed_gives_the_same_figures_and_another_one_others():
    settings = {"rounds": 2, "drop": 0.4, "attackers": 0.2}
    first, again = (simulate(poor_head(), people(), Settings(**settings)) for _ in range(2))
    assert first == again
    other = simulate(poor_head(), people(), Settings(**settings, seed=2))
    assert [r.replies for r in other.rounds] != [r.replies for r in first.rounds]


def test_seeds_are_counted_together():
    runs = [simulate(poor_head(), people(3), Settings(seed=seed)) for seed in (1, 2)]
    told = summarise(runs)
    assert (told.receivers, told.trained.devices) == (6, 3)
    assert told.receivers_change == (told.trained.change, told.trained.change)
    assert told.receivers_worse == 0


def test_liars_are_left_out_by_length_and_swayed_by_no_median():
    crowd = people(10)
    plain = Settings(rounds=3, attackers=0.3, max_norm=None)
    swayed = simulate(poor_head(), crowd, plain)
    robust = simulate(
        poor_head(),
        crowd,
        Settings(rounds=3, attackers=0.3, max_norm=None, strategy=Strategy(name="median")),
    )
    bounded = simulate(poor_head(), crowd, Settings(rounds=3, attackers=0.3, max_norm=3.0))
    assert sum(d.part == "attacker" for d in swayed.devices) == 3
    assert not any(d.receives for d in swayed.devices if d.part == "attacker")
    assert robust.rounds[-1].withheld > swayed.rounds[-1].withheld + 0.2
    assert bounded.rounds[-1].withheld > swayed.rounds[-1].withheld + 0.2
    assert bounded.rounds[1].refused == 3
    assert "times the round's median" in bounded.refusals[0]


def test_a_strategy_that_has_too_few_replies_ends_the_run_with_the_reason():
    run = simulate(poor_head(), people(4), Settings(strategy=Strategy(name="krum")))
    assert run.why == "round 1 has 4 good replies; krum needs 5"
    assert not any(d.receives for d in run.devices)
    assert len(run.rounds) == 1


def test_a_device_with_few_windows_only_judges():
    crowd = {**people(3), "small": labelled(9, count=30)}
    run = simulate(poor_head(), crowd, Settings(rounds=1))
    assert {d.device: d.part for d in run.devices}["small"] == "guard"
    with pytest.raises(RefusedError, match="none of 1 devices has 20 train windows"):
        simulate(poor_head(), {"small": labelled(9, count=30)}, Settings())


def test_an_anchor_holds_simulated_devices_too():
    sure = HeadArrays(weight=20 * poor_head().weight, bias=poor_head().bias)
    loose, held = (
        simulate(sure, people(), Settings(training=Training(anchor=anchor)))
        for anchor in (0.0, 1.5)
    )
    assert loose.rounds[-1].withheld > held.rounds[-1].withheld + 0.1


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        pytest.param({"drop": 1.0}, "drop of 1.0", id="nobody answers"),
        pytest.param({"attackers": 1.5}, "share of 1.5", id="more liars than devices"),
    ],
)
def test_a_share_that_cannot_be_is_refused(wrong, words):
    with pytest.raises(RefusedError, match=words):
        Settings(**wrong)


def test_a_guard_that_is_not_there_is_refused():
    with pytest.raises(RefusedError, match="the guard names 'nobody'"):
        simulate(poor_head(), people(), Settings(guard=frozenset({"nobody"})))


@pytest.mark.parametrize("alpha", [0.1, 100.0])
def test_a_dirichlet_split_deals_every_window_once_and_keeps_its_split(alpha):
    parts = people(4)
    dealt = deal(parts, devices=5, alpha=alpha, seed=3)
    assert sorted(dealt) == [f"device-{n}" for n in range(1, 6)]
    before = np.sort(np.concatenate([w.x.sum(axis=(1, 2)) for w in parts.values()]))
    after = np.sort(np.concatenate([w.x.sum(axis=(1, 2)) for w in dealt.values()]))
    assert np.array_equal(before, after)
    for split in Split:
        kept = sum(w.count(split) for w in parts.values())
        assert sum(w.count(split) for w in dealt.values()) == kept
    largest = [
        np.bincount(w.y, minlength=CLASSES).max() / len(w.y) for w in dealt.values() if len(w.y)
    ]
    assert max(largest) < 0.5 if alpha > 1 else max(largest) > 0.5
    for windows in dealt.values():
        for label in np.unique(windows.y):
            counts = [np.count_nonzero(windows.of(part)[1] == label) for part in Split]
            assert max(counts) - min(counts) <= 4
    again = deal(parts, devices=5, alpha=alpha, seed=3)
    assert all(np.array_equal(again[n].x, dealt[n].x) for n in dealt)


def save(path, **changes):
    chance = np.random.default_rng(1)
    arrays = {
        "x": chance.normal(size=(12, 2, 4)).astype(np.float32),
        "y": np.arange(12) % 3,
        "split": (np.arange(12) % 3).astype(np.uint8),
        **changes,
    }
    path.parent.mkdir(exist_ok=True)
    np.savez(path, **arrays)
    return path


def test_a_file_is_one_device_or_one_for_each_name_in_it(tmp_path):
    one = save(tmp_path / "kitchen.npz")
    many = save(tmp_path / "many.npz", device=np.array(["left", "right"] * 6))
    found = read_devices([one, many])
    assert {name: len(w.y) for name, w in found.items()} == {"kitchen": 12, "left": 6, "right": 6}
    same = [save(tmp_path / room / "labelled.npz") for room in ("hall", "attic")]
    assert set(read_devices(same)) == {"hall", "attic"}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        pytest.param({"device": np.zeros(11, int)}, "one for each of the 12", id="too few names"),
        pytest.param({"device": np.zeros(12)}, "float64", id="names that are numbers with points"),
        pytest.param({"device": np.array(["a"] * 11 + [None])}, "'device' does not", id="objects"),
        pytest.param({"split": np.full(12, 7, np.uint8)}, "'split' holds 7", id="no such split"),
        pytest.param({"device": np.array(["other"] * 12)}, "earlier file", id="twice"),
        pytest.param({"x": np.zeros((12, 3, 4), np.float32)}, "different shapes", id="shapes"),
    ],
)
def test_a_file_that_is_no_set_of_devices_is_refused(tmp_path, changes, words):
    other = save(tmp_path / "other.npz")
    wrong = save(tmp_path / "wrong.npz", **changes)
    with pytest.raises(ConfigError, match=words):
        read_devices([other, wrong])


def test_figures_are_plain_json():
    import msgspec

    run = simulate(poor_head(), people(3), Settings(rounds=1))
    told = json.loads(msgspec.json.encode(run))
    assert told["devices"][0]["withheld_after"]["windows"] == 39


def test_a_simulation_ends_with_the_head_of_the_run_that_it_simulates():
    settings = Settings(rounds=3, max_norm=None)
    devices = {name: SmallDevice(seed) for seed, name in enumerate(DEVICES)}
    crowd = {n: embedded(d.samples, d.embed(d.samples.x)) for n, d in devices.items()}
    final, simulated = train(running_head(), crowd, settings)
    world = World()
    asked = plan(
        rounds=3,
        participants=DEVICES,
        strategy=settings.strategy,
        training=settings.training,
    )
    run = conductor(world, asked)
    state = drive(run, world, devices)
    assert np.array_equal(run.candidate().weight, final.weight)
    assert np.array_equal(run.candidate().bias, final.bias)
    for figures in simulated.devices:
        told = state.figures[figures.device]
        assert (told.withheld_running, told.withheld) == (
            figures.withheld_before,
            figures.withheld_after,
        )
        assert (told.decide_running, told.decide) == (figures.decide_before, figures.decide_after)


def test_what_is_withheld_or_decides_teaches_nobody():
    crowd = people(4)
    spoiled = {
        name: LabelledWindows(
            x=w.x, y=np.where(w.split == Split.TRAIN, w.y, CLASSES - 1 - w.y), split=w.split
        )
        for name, w in crowd.items()
    }
    first, second = (train(poor_head(), each, Settings())[0] for each in (crowd, spoiled))
    assert np.array_equal(first.weight, second.weight)
    assert np.array_equal(first.bias, second.bias)


def test_a_dealt_device_has_windows_of_every_split_though_they_come_one_after_the_other():
    windows = labelled(1)
    order = np.argsort(windows.split, kind="stable")
    sorted_ones = LabelledWindows(
        x=windows.x[order], y=windows.y[order], split=windows.split[order]
    )
    for dealt in deal({"one": sorted_ones}, devices=3, alpha=100, seed=1).values():
        assert all(dealt.count(part) >= 10 for part in Split)
