"""A listener over WebSocket beside the others: tried, written, judged, and used to enrol."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from agent.contract.broker_url import BrokerUrl
from fleet.config import BrokerConfig, FleetConfig
from fleet.errors import ConfigError, RefusedError, UnreachableError
from fleet.ingest.knock import ADMITTED, Listener, knock
from fleet.ingest.mosquitto import Backend
from fleet.service.broker_setup import BrokerWish, set_up_broker
from fleet.service.desk import wall_clock_ms
from fleet.service.doctor_broker import check_broker
from fleet.service.founding import Ports, found_dev
from tests.agents import command as agent
from tests.agents import write_config
from tests.brokers import accepts, eventually, free_port
from tests.fleet.test_fleet_cli import Command, serving
from tests.manager_home import ROOT
from tests.proxies import HttpProxy

pytestmark = pytest.mark.broker


def fleet_with(folder: Path, **changes: str) -> FleetConfig:
    """Make a development fleet and change its ``[broker]``; by itself it gets ``wss_url``."""
    ports = Ports(devices=free_port(), enrolment=free_port())
    config = found_dev(folder / "home", "demo", kind="mosquitto", ports=ports)
    changes = changes or {"wss_url": f"wss://127.0.0.1:{free_port()}/mqtt"}
    config = replace(config, broker=replace(config.broker, **changes))
    (config.home / "fleet.toml").write_text(config.render())
    return FleetConfig.load(config.home)


@contextmanager
def running(config: FleetConfig) -> Iterator[None]:
    broker = config.broker
    ports = [BrokerUrl.parse(u).port for u in (broker.url, broker.enrol_url, broker.wss_url)]
    words = [sys.executable, "-m", "fleet", "broker", "run", "--home", str(config.home)]
    with subprocess.Popen(words, cwd=ROOT, stderr=subprocess.DEVNULL) as child:
        try:
            eventually(lambda: all(accepts(port) for port in ports))
            yield
        finally:
            child.terminate()


@pytest.mark.parametrize("backend", list(Backend))
def test_the_listener_is_tried_written_and_as_the_doctor_expects_it(
    tmp_path: Path, backend: Backend
):
    config = fleet_with(tmp_path)
    made = set_up_broker(config, BrokerWish(backend=backend))
    assert "the manager is admitted over WebSocket" in made.held
    assert "a wrong password is refused over WebSocket" in made.held
    assert "listen for WebSocket on every address" in made.warning
    url = BrokerUrl.parse(config.broker.wss_url)
    with running(config):
        at = Listener(
            address="127.0.0.1",
            port=url.port,
            name="127.0.0.1",
            ca=config.broker_ca(),
            path=url.path,
        )
        password = config.secret("manager-password")
        assert knock(at, "fieldfare-manager", password, "fieldfare-manager") == ADMITTED
    found = check_broker(config, running=True, status=None, now_ms=wall_clock_ms())
    assert {check.name: check.why for check in found if check.state != "ok"} == {}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        pytest.param({"url": "wss://127.0.0.1:8443/mqtt"}, "set broker.wss_url beside", id="alone"),
        pytest.param({"wss_url": "wss://127.0.0.1:{devices}"}, "of another listener", id="a port"),
        pytest.param(
            {"url": "mqtt://127.0.0.1:1", "wss_url": "wss://127.0.0.1"}, "certificate", id="no TLS"
        ),
        pytest.param({"wss_url": "wss://far.example"}, "far.example", id="not in the certificate"),
    ],
)
def test_what_cannot_be_is_refused_and_nothing_written(tmp_path: Path, changes, says):
    config = fleet_with(tmp_path, wss_url="")
    port = str(BrokerUrl.parse(config.broker.url).port)
    changes = {name: url.replace("{devices}", port) for name, url in changes.items()}
    config = replace(config, broker=replace(config.broker, **changes))
    before = (config.broker_folder / "mosquitto.conf").read_bytes()
    with pytest.raises((RefusedError, UnreachableError), match=says):
        set_up_broker(config, BrokerWish())
    assert (config.broker_folder / "mosquitto.conf").read_bytes() == before


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"wss_url": "ws://127.0.0.1/mqtt"}, "not wss://"),
        ({"wss_url": "wss://host:x"}, r"broker\.wss_url"),
        ({"proxy": "http://me:secret@p:1"}, "secrets do not belong"),
        ({"proxy": "p:3128"}, r"broker\.proxy: a proxy is"),
    ],
)
def test_a_setting_that_cannot_be_is_named(changes, says):
    with pytest.raises(ConfigError, match=says) as caught:
        BrokerConfig(**changes)
    assert "secret@" not in str(caught.value)


@pytest.mark.system
def test_a_device_that_has_only_a_proxy_enrols_over_websocket_and_stays_there(
    tmp_path: Path, capsys
):
    config = fleet_with(tmp_path)
    command = Command(config.home, capsys)
    file = tmp_path / "far.enrol"
    assert command("broker", "setup")[0] == 0
    with HttpProxy() as proxy, running(config), serving(config):
        assert command("token", "create", "--wss", "--file", str(file))[0] == 0
        assert json.loads(file.read_text())["enrol_url"] == config.broker.wss_url
        settings = write_config(tmp_path)
        text = settings.read_text().replace("[link]", f'[link]\nproxy = "{proxy.url}"')
        settings.write_text(text)
        joined = agent("enrol", file, "--config", settings)
        assert joined.returncode == 0, joined.stderr
        kept = json.loads((tmp_path / "state" / "enrolled.json").read_text())
        assert kept["broker_url"] == config.broker.wss_url
        asked = len(proxy.asked)
        assert asked
        told = agent("doctor", "--config", settings, "--output", "json")
        checks = {c["name"]: c for c in json.loads(told.stdout)["checks"]}
        assert checks["proxy"]["why"].startswith("MQTT goes through the HTTP proxy")
        assert checks["broker"]["state"] == "ok", checks["broker"]
        assert len(proxy.asked) > asked


@pytest.mark.system
def test_a_token_for_websocket_wants_a_listener_for_it(tmp_path: Path, capsys):
    config = fleet_with(tmp_path, wss_url="")
    with serving(config):
        status, _, said = Command(config.home, capsys)(
            "token", "create", "--wss", "--file", str(tmp_path / "x")
        )
    assert status != 0
    assert "no listener for WebSocket: set broker.wss_url" in said
    assert not (tmp_path / "x").exists()
