"""Where models are listened for: sockets, ports, tokens, and their place in the daemon."""

import socket
import stat
import threading
import time

import pytest

from agent.config_file import parse_config
from agent.config_serving import ServeConfig
from agent.contract.health_lines import health_lines
from agent.contract.telemetry import Health, Served
from agent.daemon import offering
from agent.daemon.agenda import Agenda
from agent.daemon.offering import Offering
from agent.doctor.serve import look_at_serve
from agent.errors import ConfigError
from agent.infer.server import sockets
from agent.infer.server.endpoint import Endpoint
from tests.served_models import TOKEN, Client, question, serving


def test_the_socket_has_its_mode_and_goes_with_the_server(tmp_path):
    with serving(tmp_path, mode="0600") as place:
        found = place.path.stat()
        assert stat.S_ISSOCK(found.st_mode)
        assert stat.S_IMODE(found.st_mode) == 0o600
        assert sorted(path.name for path in tmp_path.iterdir()) == ["inference.sock"]
    assert not list(tmp_path.iterdir())


def test_a_socket_left_over_from_a_crash_is_replaced(tmp_path):
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "inference.sock"))
    with serving(tmp_path) as place, place.client() as client:
        assert client.infer(question()).status == 200


def test_a_socket_that_another_program_serves_is_left_alone(tmp_path):
    with serving(tmp_path) as place:
        with pytest.raises(ConfigError, match="by another program"), serving(tmp_path):
            pass
        with place.client() as client:
            assert client.infer(question()).status == 200


def test_a_file_that_is_no_socket_is_never_deleted(tmp_path):
    (tmp_path / "inference.sock").write_text("mine")
    with pytest.raises(ConfigError, match="no socket"), serving(tmp_path):
        pass
    assert (tmp_path / "inference.sock").read_text() == "mine"


def test_a_socket_that_took_our_name_meanwhile_is_left_alone(tmp_path):
    with serving(tmp_path) as place:
        place.path.unlink()
        place.path.write_text("somebody else's")
    assert place.path.read_text() == "somebody else's"


@pytest.mark.parametrize(
    ("path", "why"),
    [("nowhere/inference.sock", "folder of socket"), ("x" * 200, "longer than")],
)
def test_a_socket_that_cannot_be_made_is_one_sentence(tmp_path, path, why):
    with pytest.raises(ConfigError, match=why):
        sockets.open_unix(tmp_path / path, 0o660)


@pytest.mark.parametrize(
    "address", ["8000", "localhost:8000", "127.0.0.1", "127.0.0.1:http", "127.0.0.1:70000", "::1"]
)
def test_an_address_is_an_address_with_a_port(address):
    with pytest.raises(ConfigError, match=r"127\.0\.0\.1:8000"):
        sockets.open_tcp(address)


def test_a_port_that_is_taken_is_one_sentence_and_leaves_no_socket_behind(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        token = write_token(tmp_path)
        config = ServeConfig(socket=tmp_path / "s.sock", tcp=address, token_file=token)
        with pytest.raises(ConfigError, match="already in use"):
            Endpoint(config, served()).start()
    assert [path.name for path in tmp_path.iterdir()] == ["token"]


def test_loopback_is_told_from_the_open():
    assert sockets.is_loopback("127.0.0.1:8000")
    assert sockets.is_loopback("[::1]:8000")
    assert not sockets.is_loopback("0.0.0.0:8000")
    assert not sockets.is_loopback("[::]:8000")


def write_token(folder, text=TOKEN, mode=0o600):
    path = folder / "token"
    path.write_text(text)
    path.chmod(mode)
    return path


@pytest.mark.parametrize(
    ("text", "mode", "why"),
    [
        ("short", 0o600, "no token of 16"),
        ("two words are no good token", 0o600, "no token"),
        (TOKEN, 0o604, "chmod o="),
        ("\x00" * 40, 0o600, "no token"),
        ("ü" * 40, 0o600, "cannot be read"),
    ],
)
def test_a_token_file_that_is_of_no_use_is_one_sentence(tmp_path, text, mode, why):
    with pytest.raises(ConfigError, match=why):
        sockets.read_token(write_token(tmp_path, text, mode))


def test_a_token_file_that_is_missing_says_how_to_make_one(tmp_path):
    with pytest.raises(ConfigError, match="openssl rand"):
        sockets.read_token(tmp_path / "token")
    assert sockets.read_token(write_token(tmp_path, f"  {TOKEN}\n", 0o640)) == TOKEN


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('[serve]\ntcp = "127.0.0.1:8000"', "needs serve.token_file"),
        ("[serve]\nbody_bytes = 2000\njson_bytes = 3000", "above serve.body_bytes"),
        ('[serve]\nmode = "660"', "mode"),
        ("[serve]\nport = 8000", "unknown setting 'port'"),
    ],
)
def test_a_contradiction_in_serve_is_one_sentence(tmp_path, text, why):
    with pytest.raises(ConfigError, match=why):
        parse_config(text, folder=tmp_path)


def test_serve_is_off_until_it_stands_and_then_has_defaults(tmp_path):
    assert parse_config("", folder=tmp_path).serve is None
    config = parse_config("[serve]", folder=tmp_path).serve
    assert config is not None
    assert str(config.socket) == "/run/fieldfare/inference.sock"
    assert config.tcp is None


def served():
    from agent.infer.server.desk import Models

    def request(slot, asked):
        raise AssertionError

    return Models(request=request, offered=lambda: ())


class Offered:
    """The server's place in the daemon, with what it led to."""

    def __init__(self, config) -> None:
        models = served()
        self.alarms = []
        self.agenda = Agenda()
        self.offering = Offering(
            config,
            self.agenda,
            alarm=lambda code, why: self.alarms.append((code, why)),
            request=models.request,
            offered=models.offered,
            actions={},
        )


def is_live(path):
    with socket.socket(socket.AF_UNIX) as there:
        there.settimeout(10)
        there.connect(str(path))
        return Client(there).ask("GET", "/v2/health/live").status == 200


def test_without_serve_nothing_is_listened_on():
    place = Offered(None)
    place.offering.start()
    assert place.offering.counts() is None
    place.offering.stop()
    assert not place.alarms


def test_what_is_asked_is_counted_and_told(tmp_path):
    path = tmp_path / "s.sock"
    place = Offered(ServeConfig(socket=path))
    place.offering.start()
    with socket.socket(socket.AF_UNIX) as there:
        there.settimeout(10)
        there.connect(str(path))
        client = Client(there)
        assert client.ask("GET", "/v2").status == 200
        assert client.infer(question()).status == 404
    told = Served(answered=1, refused={"model-unknown": 1})
    assert place.offering.counts() == told
    lines = dict(health_lines(Health(ts=0, served=told)))
    assert lines == {"over HTTP": "1 requests answered; refused: 1 model-unknown"}
    place.offering.stop()
    assert not path.exists()


def test_a_socket_that_is_taken_is_an_alarm_and_tried_again(tmp_path):
    path = tmp_path / "s.sock"
    path.write_text("mine")
    place = Offered(ServeConfig(socket=path))
    place.offering.start()
    assert [code for code, _ in place.alarms] == ["config"]
    path.unlink()
    later = time.monotonic() + offering.AGAIN_SECONDS
    for action in place.agenda.due(later):
        action()
    assert is_live(path)
    place.offering.stop()
    assert not place.agenda.holds("serve")


def test_a_server_that_ended_is_started_again_and_an_alarm_says_so(tmp_path, monkeypatch):
    path = tmp_path / "s.sock"
    place = Offered(ServeConfig(socket=path))
    with monkeypatch.context() as broken:
        broken.setattr(Endpoint, "_floor", lambda *_: 1 / 0)
        place.offering.start()
    assert place.offering.counts() is not None
    assert [code for code, _ in place.alarms] == ["serve"]
    assert "ZeroDivisionError" in place.alarms[0][1]
    assert is_live(path)
    place.offering.stop()


def test_serve_without_its_package_keeps_the_agent_from_starting_with_a_sentence(monkeypatch):
    monkeypatch.setattr(offering, "find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=r"install fieldfare\[serve\]"):
        Offered(ServeConfig())
    Offered(None)


def test_the_doctor_hears_a_server_that_answers_and_sees_one_that_will(tmp_path):
    assert look_at_serve(None, running=True) is None
    with serving(tmp_path) as place:
        said = look_at_serve(ServeConfig(socket=place.path), running=True)
        assert said == f"models are asked on {place.path}"
    token = write_token(tmp_path)
    config = ServeConfig(socket=tmp_path / "s.sock", tcp="0.0.0.0:8000", token_file=token)
    said = look_at_serve(config, running=False)
    assert said is not None
    assert "will be asked" in said
    assert "in clear" in said
    assert not (tmp_path / "s.sock").exists()


def test_the_doctor_tells_the_agent_from_something_else(tmp_path):
    path = tmp_path / "s.sock"
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        other.listen()

        def greet():
            with other.accept()[0] as there:
                there.recv(1000)
                there.sendall(b"220 hello")

        answering = threading.Thread(target=greet)
        answering.start()
        with pytest.raises(ConfigError, match="something else"):
            look_at_serve(ServeConfig(socket=path), running=True)
        answering.join()


def test_a_token_file_that_the_agent_may_not_open_says_whom_to_give_it_to(tmp_path, monkeypatch):
    def closed(self, mode):
        raise PermissionError(13, "Permission denied")

    path = write_token(tmp_path)
    monkeypatch.setattr(type(path), "open", closed)
    with pytest.raises(ConfigError, match="chmod g"):
        sockets.read_token(path)
