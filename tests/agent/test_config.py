from pathlib import Path

import pytest

from agent.config import Config
from agent.config_file import load_config, parse_config
from agent.config_inference import Called, Replay, Subscribed
from agent.errors import ConfigError

HERE = Path("/etc/fieldfare")

WHOLE = """
[agent]
state_dir = "/data/agent"
hardware = "raspberry-pi-5"
startup_delay_seconds = 5

[broker]
keepalive_seconds = 30
session_expiry_seconds = 7200

[link]
reconnect_first_seconds = 0.1
reconnect_longest_seconds = 2
resend_seconds = 5
stall_seconds = 10

[local_broker]
url = "mqtt://127.0.0.1:1883"

[outbox]
quota_bytes = 1048576

[observe]
window_seconds = 2.5

[update]
probation_seconds = 20
min_windows = 5
min_agreement = 0.8

[learn]
samples = "labelled.npz"
slot = "motion"
train = true

[pipeline.motion]
source = { kind = "replay", path = "recording.npz", speed = 10, loop = true }
publish_predictions = true

[pipeline.sound]
source = { kind = "mqtt", topic = "microphone/1" }

[pipeline.light]
source = { kind = "callable", target = "lamps.sensor:read" }
"""


def test_an_empty_file_means_every_default():
    assert parse_config("", folder=HERE) == Config()


def test_every_section_is_read():
    config = parse_config(WHOLE, folder=HERE)
    assert config.agent.state_dir == Path("/data/agent")
    assert config.agent.hardware == "raspberry-pi-5"
    assert config.broker.keepalive_seconds == 30
    assert config.link.reconnect_first_seconds == pytest.approx(0.1)
    assert config.outbox.quota_bytes == 2**20
    assert config.observe.window_seconds == pytest.approx(2.5)
    assert config.update.min_windows == 5
    assert config.labelled_slot == "motion"
    assert config.pipeline["motion"].publish_predictions
    assert config.pipeline["sound"].source == Subscribed(topic="microphone/1")
    assert config.pipeline["light"].source == Called(target="lamps.sensor:read")


def test_relative_paths_lie_beside_the_file(tmp_path):
    file = tmp_path / "agent.toml"
    file.write_text(WHOLE)
    config = load_config(file)
    assert config.learn.samples == tmp_path / "labelled.npz"
    assert config.pipeline["motion"].source == Replay(
        path=tmp_path / "recording.npz", speed=10, loop=True
    )


@pytest.mark.parametrize(
    ("text", "says"),
    [
        pytest.param("colour = 1", "unknown setting 'colour'", id="unknown section"),
        pytest.param("[broker]\nhost = 'x'", "unknown setting 'host' in [broker]", id="unknown"),
        pytest.param("[agent]\nstate_dir = 3", "agent.state_dir", id="wrong type"),
        pytest.param("[link]\nfresh_seconds = -5", "link.fresh_seconds", id="below zero"),
        pytest.param("[link]\nfresh_seconds = 'soon'", "link.fresh_seconds", id="not a number"),
        pytest.param("[agent]\nhardware = 'A B'", "agent.hardware", id="bad name"),
        pytest.param("[learn]\ntrain = true", "learn.train needs learn.samples", id="no samples"),
        pytest.param("[feedback]\nrecent = 0", "feedback.recent", id="nothing to remember"),
        pytest.param("[feedback]\nquota_bytes = 9", "feedback.quota_bytes", id="no room"),
        pytest.param("[learn]\nslot = 'x1'", "has no [pipeline.x1]", id="slot without pipeline"),
        pytest.param(
            "[pipeline.motion]\nsource = {kind = 'telepathy'}", "telepathy", id="unknown source"
        ),
        pytest.param(
            "[pipeline.motion]\nsource = {kind = 'replay'}", "path", id="source without path"
        ),
        pytest.param(
            "[pipeline.Motion]\nsource = {kind = 'mqtt', topic = 'a'}", "'Motion'", id="bad slot"
        ),
        pytest.param(
            "[link]\nreconnect_first_seconds = 9\nreconnect_longest_seconds = 8",
            "is below",
            id="bounds the wrong way round",
        ),
        pytest.param("[link]\nproxy = 'socks5://p:1'", "link: proxy: a proxy is", id="no proxy"),
        pytest.param("[[", "is not TOML", id="not TOML"),
    ],
)
def test_a_wrong_setting_is_one_sentence_that_names_it(text, says):
    with pytest.raises(ConfigError) as caught:
        parse_config(text, folder=HERE)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_status == 3


def test_nothing_is_remembered_unless_the_owner_says_so():
    silent = parse_config("[pipeline.motion]", folder=HERE)
    assert (silent.feedback, silent.keeps_windows, silent.labelled_slot) == (None, False, None)
    counting = parse_config("[feedback]\n[pipeline.motion]", folder=HERE)
    assert counting.feedback is not None
    assert (counting.keeps_windows, counting.labelled_slot) == (False, None)
    keeping = parse_config("[feedback]\nkeep_windows = true\n[pipeline.motion]", folder=HERE)
    assert (keeping.keeps_windows, keeping.labelled_slot) == (True, "motion")


def test_windows_that_people_label_are_enough_to_train_on_where_the_slot_is_clear():
    two = "[feedback]\nkeep_windows = true\n[pipeline.motion]\n[pipeline.door]\n"
    assert parse_config(two, folder=HERE).labelled_slot is None
    with pytest.raises(ConfigError, match=r"learn\.train needs .* name it in learn\.slot"):
        parse_config(f"{two}[learn]\ntrain = true", folder=HERE)
    named = parse_config(f"{two}[learn]\ntrain = true\nslot = 'door'", folder=HERE)
    assert named.labelled_slot == "door"
    with pytest.raises(ConfigError, match=r"learn\.train needs"):
        parse_config("[feedback]\n[pipeline.motion]\n[learn]\ntrain = true", folder=HERE)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"missing\.toml: No such file"):
        load_config(tmp_path / "missing.toml")


def test_a_huge_file_is_no_configuration(tmp_path):
    (tmp_path / "agent.toml").write_bytes(b"#" * 300_000)
    with pytest.raises(ConfigError, match="no configuration"):
        load_config(tmp_path / "agent.toml")


def test_two_pipelines_with_samples_need_a_slot():
    text = WHOLE.replace('slot = "motion"\n', "")
    with pytest.raises(ConfigError, match=r"needs learn\.slot"):
        parse_config(text, folder=HERE)
