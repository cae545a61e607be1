"""Many devices by one enrolment file: a list of keys, a count, an expiry, a group."""

from pathlib import Path

import pytest
from nacl.signing import SigningKey

from agent.contract.envelope import device_id
from agent.contract.topics import ENROL_REPLY
from fleet.cli.device_list import read_device_list
from fleet.errors import ConfigError
from fleet.service import membership
from fleet.service.desk import Desk
from fleet.service.wishes import TokenWish
from tests.fleet.test_fleet_cli import Command, serving
from tests.manager_home import Stranger, make_desk, make_home


@pytest.fixture
def desk(tmp_path: Path):
    desk = make_desk(tmp_path)
    yield desk
    desk.registry.close()


def key_of(device: Stranger) -> str:
    return bytes(device.key.verify_key).hex()


def members(desk: Desk) -> list[str]:
    return [found.id for found in membership.devices(desk)]


def test_only_listed_devices_join_with_a_token_for_listed_devices(desk: Desk):
    one, two, other = Stranger(), Stranger(), Stranger()
    wish = TokenWish(uses=9, group="pilots", devices=(key_of(one), key_of(two)))
    file = membership.create_token(desk, wish)
    for device in (other, one, two):
        device.asks_to_join(desk, file)
    assert members(desk) == [one.id, two.id]
    assert {found.group for found in membership.devices(desk)} == {"pilots"}
    assert len([o for o in desk.outgoing if o.address.channel is ENROL_REPLY]) == 1
    (token,) = membership.tokens(desk)
    assert (token.listed, token.used_by) == (2, (one.id, two.id))


def test_a_count_below_the_length_of_the_list_is_a_limit_of_its_own(desk: Desk):
    devices = [Stranger() for _ in range(3)]
    wish = TokenWish(uses=2, devices=tuple(key_of(d) for d in devices))
    file = membership.create_token(desk, wish)
    for device in devices:
        device.asks_to_join(desk, file)
    assert members(desk) == [d.id for d in devices[:2]]


def test_a_listed_device_of_a_token_that_ran_out_stays_out(desk: Desk):
    device = Stranger()
    wish = TokenWish(lifetime_seconds=60, devices=(key_of(device),))
    file = membership.create_token(desk, wish)
    now = desk.now_ms()
    desk.now_ms = lambda: now + 61_000
    device.asks_to_join(desk, file)
    assert members(desk) == []


def test_a_token_without_a_list_is_for_any_device(desk: Desk):
    device = Stranger()
    device.asks_to_join(desk, membership.create_token(desk, TokenWish()))
    assert members(desk) == [device.id]
    assert membership.tokens(desk)[0].listed == 0


def test_the_list_of_one_token_does_not_close_another(desk: Desk):
    listed, other = Stranger(), Stranger()
    membership.create_token(desk, TokenWish(devices=(key_of(listed),)))
    other.asks_to_join(desk, membership.create_token(desk, TokenWish()))
    assert members(desk) == [other.id]


def test_a_list_with_a_key_twice_counts_it_once(desk: Desk):
    device = Stranger()
    membership.create_token(desk, TokenWish(devices=(key_of(device),) * 2))
    assert membership.tokens(desk)[0].listed == 1


def line(key: SigningKey) -> str:
    return f"{bytes(key.verify_key).hex()},{device_id(key.verify_key)}"


ONE, TWO = SigningKey(b"1" * 32), SigningKey(b"2" * 32)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(f"{line(ONE)}\n{line(TWO)}\n", id="as the agents print it"),
        pytest.param(
            f"\ufeffkey,device\r\n{line(ONE)}\r\n\r\n{line(TWO)}", id="from a spreadsheet"
        ),
        pytest.param(
            f"# roof\n{line(ONE).split(',')[0].upper()}\n{line(TWO)},roof 2", id="by hand"
        ),
        pytest.param(f'"{line(ONE).split(",")[0]}","a, b"\n {line(TWO)}', id="quoted"),
    ],
)
def test_a_list_is_read_as_people_keep_it(tmp_path: Path, text: str):
    path = tmp_path / "devices.csv"
    path.write_text(text, encoding="utf-8")
    assert read_device_list(path) == tuple(bytes(k.verify_key).hex() for k in (ONE, TWO))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "lists no device"),
        ("key,device\n", "lists no device"),
        (f"{line(ONE)}\nd-yj4uanqjzsk723k6\n", "line 2 does not begin with a public key"),
        (f"{line(ONE)}0\n,\nabc\n", "line 3 does not begin with a public key"),
        (f"{line(ONE)}\n{line(TWO)}\n{line(ONE)}\n", "line 3 holds the same key as line 1"),
        (f"{line(ONE).split(',')[0]},{line(TWO).split(',')[1]}\n", "not the device of this key"),
    ],
)
def test_a_wrong_list_is_named_by_its_line(tmp_path: Path, text: str, sentence: str):
    path = tmp_path / "devices.csv"
    path.write_text(text)
    with pytest.raises(ConfigError, match=sentence):
        read_device_list(path)


@pytest.mark.parametrize("content", [None, b"\xff\xfe\x00"])
def test_a_list_that_cannot_be_read_is_one_sentence(tmp_path: Path, content: bytes | None):
    path = tmp_path / "devices.csv"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_device_list(path)


def test_the_command_takes_a_list_and_says_how_many(tmp_path: Path, capsys):
    config = make_home(tmp_path)
    listed = tmp_path / "devices.csv"
    listed.write_text(f"{line(ONE)}\n{line(TWO)}\n")
    command = Command(config.home, capsys)
    with serving(config):
        file = str(tmp_path / "pi.enrol")
        status, out, err = command("token", "create", "--devices", str(listed), "--file", file)
        assert (status, err) == (0, "")
        assert f"good for 2 device(s) of the 2 in {listed}" in out
        (token,) = command.json("token", "list")
        assert (token["uses"], token["listed"]) == (2, 2)
        assert "2 listed" in command("token", "list")[1]
        listed.write_text("nobody\n")
        status, _, err = command("token", "create", "--devices", str(listed), "--file", f"{file}2")
        assert status == 3
        assert "line 1" in err
        assert len(command.json("token", "list")) == 1
