from pathlib import Path

import pytest

from fleet.config import BrokerConfig, FleetConfig
from fleet.config_home import HomeAssistantConfig
from fleet.errors import ConfigError, ConflictError, NewerStateError
from fleet.service.founding import Ports, found_dev
from tests.manager_home import make_home


def test_what_is_rendered_reads_back_equal(tmp_path: Path):
    config = FleetConfig(
        home=tmp_path,
        fleet="demo",
        dev=True,
        task_seconds=7,
        tick_seconds=0.5,
        broker=BrokerConfig(),
        home_assistant=HomeAssistantConfig(url="mqtt://h:1883", devices="group=home"),
    )
    (tmp_path / "fleet.toml").write_text(config.render())
    assert FleetConfig.load(tmp_path) == config


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        pytest.param('fleet = "demo"\ncolour = 1', "unknown setting colour", id="unknown key"),
        pytest.param(
            'fleet = "demo"\n[broker]\nurk = 1', "setting broker.urk", id="unknown in table"
        ),
        pytest.param('fleet = "demo"\ntask_seconds = "7"', "is not a int", id="a number in quotes"),
        pytest.param(
            'fleet = "demo"\ntask_seconds = true', "is not a int", id="a truth for a number"
        ),
        pytest.param('fleet = "De mo"', "lower-case letters", id="a name with a space"),
        pytest.param('fleet = "demo"\nbroker = 3', "is not a table", id="no table"),
        pytest.param('fleet = "demo"\n[broker]\nkind = "x"', "neither 'mosquitto'", id="a broker"),
        pytest.param(
            'fleet = "demo"\n[broker]\nurl = "http://h:1"', "is not mqtt://", id="a scheme"
        ),
        pytest.param(
            'fleet = "demo"\n[broker]\nurl = "mqtt://h:one"', "is not mqtt://", id="a port in words"
        ),
        pytest.param(
            'fleet = "demo"\n[home_assistant]\nuri = "x"', "home_assistant.uri", id="a bridge's key"
        ),
        pytest.param('v = "2"\nfleet = "demo"', "has version 2", id="no version"),
        pytest.param("fleet = ", "cannot be read", id="not TOML"),
        pytest.param("", "fleet", id="no name"),
    ],
)
def test_a_wrong_configuration_is_one_sentence(tmp_path: Path, text: str, sentence: str):
    (tmp_path / "fleet.toml").write_text(text)
    with pytest.raises(ConfigError, match=sentence):
        FleetConfig.load(tmp_path)


def test_a_missing_home_says_how_to_make_one(tmp_path: Path):
    with pytest.raises(ConfigError, match="fieldfare init"):
        FleetConfig.load(tmp_path / "nowhere")


def test_founding_never_touches_a_home_that_holds_something(tmp_path: Path):
    config = make_home(tmp_path)
    before = sorted(p.name for p in config.home.rglob("*"))
    with pytest.raises(ConflictError, match="not empty"):
        found_dev(config.home, "demo", kind="embedded", ports=Ports())
    assert sorted(p.name for p in config.home.rglob("*")) == before


def test_a_failed_founding_leaves_nothing_behind(tmp_path: Path):
    with pytest.raises(ConfigError):
        found_dev(tmp_path / "home", "No Name", kind="embedded", ports=Ports())
    assert list(tmp_path.iterdir()) == []


def test_every_key_of_a_new_home_is_closed_to_others(tmp_path: Path):
    config = make_home(tmp_path)
    open_to_others = [p for p in config.keys.rglob("*") if p.is_file() and p.stat().st_mode & 0o077]
    assert open_to_others == []
    assert config.home.stat().st_mode & 0o077 == 0


def test_a_configuration_of_a_newer_version_is_refused_untouched(tmp_path: Path):
    text = 'v = 2\nfleet = "demo"\nsomething_newer = true\n'
    (tmp_path / "fleet.toml").write_text(text)
    with pytest.raises(NewerStateError, match="newer program"):
        FleetConfig.load(tmp_path)
    assert (tmp_path / "fleet.toml").read_text() == text
