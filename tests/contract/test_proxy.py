"""Which proxy is taken, and what a proxy's answer means."""

import pytest

from agent.contract.broker_url import BrokerUrl
from agent.contract.checkup import check_proxies
from agent.contract.proxy import Proxies, Proxy, choose_proxy, connect_request, refusal
from agent.errors import MalformedError

BROKER = BrokerUrl.parse("mqtts://broker.example.org")
SET = {"HTTPS_PROXY": "http://proxy:3128"}


@pytest.mark.parametrize(
    ("setting", "environment", "url", "taken"),
    [
        pytest.param("http://own:1", SET, "mqtts://b.example", "own:1", id="the setting"),
        pytest.param("http://own:1", {}, "mqtt://127.0.0.1", "own:1", id="for any address"),
        pytest.param("http://own", {}, "mqtts://b.example", "own:80", id="without a port"),
        pytest.param(None, SET, "mqtts://b.example", "proxy:3128", id="the environment"),
        pytest.param(None, {"all_proxy": "http://a:2"}, "mqtts://b.c", "a:2", id="for all"),
        pytest.param("none", SET, "mqtts://b.example", None, id="none"),
        pytest.param("", SET, "mqtts://b.example", None, id="nothing"),
        pytest.param(None, SET, "mqtt://b.example", None, id="without TLS"),
        pytest.param(None, SET, "mqtts://127.0.0.1", None, id="this machine"),
        pytest.param(None, {}, "mqtts://b.example", None, id="nothing is set"),
        pytest.param(
            None, {**SET, "NO_PROXY": "x, .b.example"}, "mqtts://a.b.example", None, id="exempt"
        ),
        pytest.param(
            None, {**SET, "no_proxy": "b.example:8883"}, "mqtts://b.example", None, id="with port"
        ),
        pytest.param(
            None, {**SET, "no_proxy": "b.example"}, "mqtts://ab.example", "proxy:3128", id="other"
        ),
    ],
)
def test_a_proxy_is_taken_from_the_setting_then_from_the_environment(
    setting, environment, url, taken
):
    chosen = choose_proxy(setting, environment, BrokerUrl.parse(url))
    assert (chosen.where if chosen else None) == taken


@pytest.mark.parametrize(
    "text",
    ["https://p:1", "socks5://p:1", "p:3128", "http://", "http://p:0", "http://p:x", "http://p q"],
)
def test_what_is_no_proxy_is_refused_and_not_repeated(text):
    with pytest.raises(MalformedError) as caught:
        Proxy.parse(text.replace("//", "//user:geheim@"))
    assert "geheim" not in str(caught.value)


def test_a_wrong_proxy_in_the_environment_names_its_variable():
    with pytest.raises(MalformedError, match="https_proxy in the environment"):
        choose_proxy(None, {"HTTPS_PROXY": "ftp://x"}, BROKER)


def test_a_password_is_decoded_for_the_proxy_and_shown_nowhere():
    proxy = Proxy.parse("http://me:a%3Ab@proxy:3128")
    assert b"Basic bWU6YTpi\r\n" in connect_request(proxy, BROKER)
    assert "a:b" not in f"{proxy!r} {proxy.where} {refusal(proxy, b'HTTP/1.1 407 No')}"


def test_a_line_break_cannot_smuggle_a_header():
    with pytest.raises(MalformedError):
        Proxy.parse("http://proxy:3128/\r\nX-Evil: 1")


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        pytest.param(b"HTTP/1.0 200 OK\r\n\r\n", "", id="a tunnel"),
        pytest.param(b"HTTP/1.1 407 Who?\r\n", "wants a user name and a password (407", id="who"),
        pytest.param(b"HTTP/1.1 403 No\r\n", "forbids this address (403 No)", id="forbidden"),
        pytest.param(b"HTTP/1.1 502 Bad\r\n", "does not reach the broker", id="gateway"),
        pytest.param(b"HTTP/1.1 400 Bad\r\n", "gives no tunnel (400 Bad)", id="other"),
        pytest.param(b"SSH-2.0-OpenSSH\r\n", "not answer as an HTTP proxy", id="another service"),
        pytest.param(b"", "not answer as an HTTP proxy", id="nothing"),
    ],
)
def test_each_refusal_of_a_proxy_has_a_sentence(answer, says):
    told = refusal(Proxy.parse("http://proxy:3128"), answer)
    assert says in told
    assert bool(told) == bool(says)


@pytest.mark.parametrize(
    ("proxies", "url", "state", "says"),
    [
        pytest.param(Proxies("http://u:pw@p:1"), "mqtt://b", "ok", "proxy p:1", id="the setting"),
        pytest.param(Proxies(None, SET), "wss://b.c", "ok", "proxy:3128", id="the environment"),
        pytest.param(Proxies("none", SET), "wss://b.c", "ok", "go straight", id="none"),
        pytest.param(Proxies(None, SET), "mqtt://b.c", "warn", "not used for", id="without TLS"),
        pytest.param(Proxies(None, SET), "", "ok", "goes straight", id="not enrolled"),
        pytest.param(
            Proxies(None, {"https_proxy": "socks5://u:pw@p"}),
            "wss://b.c",
            "fail",
            "https_proxy in the environment: a proxy is http://",
            id="no proxy",
        ),
    ],
)
def test_the_doctor_names_the_proxy_on_the_way_or_what_is_not_used(proxies, url, state, says):
    found = check_proxies(proxies, url)
    assert found.state == state
    assert says in found.why
    assert "pw" not in found.why
