"""Which strategies of Flower run unchanged over our Grid: what the documentation lists."""

import re
from pathlib import Path

import numpy as np
import pytest

from tests.apps.strategies_app import STRATEGIES
from tests.small_rounds import (
    DEVICES,
    ThreadChild,
    World,
    conductor,
    drive,
    plan,
    running_head,
    three_devices,
)

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
APPS = ROOT / "tests" / "apps"


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_strategy_of_flower_trains_and_evaluates_heads(name):
    world = World()
    asked = plan(app=f"strategies_app:{name}", app_folder=str(APPS), participants=DEVICES)
    run = conductor(world, asked, launch=ThreadChild)
    state = drive(run, world, three_devices())
    assert (state.status, state.rounds_completed) == ("finished", 2), state.why
    assert len(state.sends) == 4
    assert np.abs(run.candidate().weight - running_head().weight).max() > 1e-3


def test_the_documentation_names_each_of_them():
    told = (ROOT / "docs" / "flower-apps.md").read_text()
    named = {word.lower() for word in re.findall(r"`([A-Za-z]+)`", told)}
    named |= {"clipping"} if "`DifferentialPrivacyServerSideFixedClipping`" in told else set()
    assert not STRATEGIES.keys() - named
