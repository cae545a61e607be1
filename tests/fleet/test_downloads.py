"""Artifacts over HTTP: ranges for who shows a grant, a clear refusal for everybody else."""

import http.client
import json
import os
import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from random import Random

import msgspec
import pytest
from nacl.signing import SigningKey

from agent.contract.authority import Authority
from agent.contract.envelope import sign_document
from agent.contract.grants import artifact_url, believe_grant, check_base, read_grant, show_grant
from agent.contract.messages import Grant, GrantRequest
from agent.contract.topics import ACK, GRANT, GRANT_REQUEST
from agent.errors import AgentError, MalformedError, TrustError
from fleet.config import DownloadsConfig, FleetConfig
from fleet.errors import ConfigError, ConflictError
from fleet.ingest import doorway, downloads
from fleet.ingest.answers import NotServed, choose_part
from fleet.ingest.downloads import Allowance, DownloadServer, Place
from fleet.ingest.tls import create_dev_tls
from fleet.registry.artifacts import Artifacts
from fleet.service.desk import Desk, open_desk
from tests.brokers import eventually, free_port
from tests.manager_home import join, make_home

pytestmark = pytest.mark.slow

DIRECTOR, ROGUE = SigningKey(b"\1" * 32), SigningKey(b"\2" * 32)
DEVICE, OTHER = "d-one", "d-two"
CONTENT = Random(7).randbytes(3 * 65_536 + 17)
DIGEST = sha256(CONTENT).hexdigest()
NOW = 1_700_000_000_000
AUTHORITY = Authority(
    fleet="demo",
    director_epoch=1,
    director_keys=(bytes(DIRECTOR.verify_key).hex(),),
    enrolment_keys=(bytes(DIRECTOR.verify_key).hex(),),
)


def a_grant(
    *,
    by: SigningKey = DIRECTOR,
    topic: str = "",
    shown_by: str = DEVICE,
    **changes: object,
) -> str:
    """Return the header of a good grant, but for what is changed."""
    known: dict[str, object] = {
        "device": DEVICE,
        "a": DIGEST,
        "url": artifact_url("https://fleet.example", DIGEST),
        "issued_ms": NOW,
        "expires_ms": NOW + 60_000,
    }
    grant = Grant(**(known | changes))
    return show_grant(sign_document(by, topic or GRANT.at(shown_by).logical, grant), shown_by)


@contextmanager
def serving(tmp_path: Path, *, tls: bool = False, **allowed: float) -> Iterator[DownloadServer]:
    artifacts = Artifacts(tmp_path / "artifacts")
    artifacts.put(CONTENT)
    place = Place(
        host="127.0.0.1",
        port=0,
        certificate=tmp_path / "tls" / "server.pem",
        key=tmp_path / "tls" / "server.key",
        encrypted=tls,
    )
    server = DownloadServer(artifacts, place, Allowance(**allowed), now_ms=lambda: NOW)
    server.renew(AUTHORITY)
    server.start()
    try:
        yield server
    finally:
        server.stop()


def get(
    server: DownloadServer,
    path: str = f"/v1/artifacts/{DIGEST}",
    method: str = "GET",
    **headers: str,
) -> tuple[int, dict[str, str], bytes]:
    asking = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    try:
        asking.request(method, path, headers=headers)
        answer = asking.getresponse()
        return answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read()
    finally:
        asking.close()


def test_a_range_is_served_to_who_shows_a_grant(tmp_path: Path):
    with serving(tmp_path) as server:
        asked = {"Authorization": a_grant(), "Range": "bytes=65536-131071"}
        status, headers, body = get(server, **asked)
    assert (status, body) == (206, CONTENT[65_536:131_072])
    assert headers["content-range"] == f"bytes 65536-131071/{len(CONTENT)}"
    assert headers["content-length"] == "65536"


def test_without_a_range_the_whole_is_served_and_head_tells_its_size(tmp_path: Path):
    with serving(tmp_path) as server:
        status, headers, body = get(server, Authorization=a_grant())
        assert (status, body) == (200, CONTENT)
        status, headers, body = get(server, method="HEAD", Authorization=a_grant())
    assert (status, headers["content-length"], body) == (200, str(len(CONTENT)), b"")


@pytest.mark.parametrize(
    ("headers", "status", "code"),
    [
        pytest.param({}, 401, "no-grant", id="nothing shown"),
        pytest.param({"Authorization": "Basic eA=="}, 401, "grant-refused", id="a password"),
        pytest.param({"Authorization": f"Bearer {DEVICE}.%%"}, 401, "grant-refused", id="garbage"),
        pytest.param(
            {"Authorization": f"Bearer {DEVICE}." + "A" * 12_000},
            401,
            "grant-refused",
            id="endless",
        ),
        pytest.param({"Authorization": a_grant(by=ROGUE)}, 401, "grant-refused", id="a rogue's"),
        pytest.param(
            {"Authorization": a_grant(topic=ACK.at(DEVICE).logical)},
            401,
            "grant-refused",
            id="another document of the director",
        ),
        pytest.param(
            {"Authorization": a_grant(shown_by=OTHER, topic=GRANT.at(DEVICE).logical)},
            401,
            "grant-refused",
            id="under another name",
        ),
        pytest.param(
            {"Authorization": a_grant(expires_ms=NOW)}, 401, "grant-expired", id="an expired one"
        ),
        pytest.param(
            {"Authorization": a_grant(shown_by=OTHER)},
            403,
            "grant-of-another",
            id="another device's",
        ),
        pytest.param(
            {"Authorization": a_grant(a="ab" * 32)},
            403,
            "grant-of-another",
            id="another artifact's",
        ),
        pytest.param(
            {"Authorization": a_grant(url="", why="no")}, 403, "grant-of-another", id="a refusal"
        ),
        pytest.param(
            {"Authorization": a_grant(), "Range": f"bytes={len(CONTENT)}-"},
            416,
            "range",
            id="past the end",
        ),
        pytest.param(
            {"Authorization": a_grant(), "Range": "bytes=0-1,4-5"}, 416, "range", id="two ranges"
        ),
    ],
)
def test_who_has_no_grant_for_it_is_refused_with_a_code(
    tmp_path: Path, headers: dict[str, str], status: int, code: str
):
    with serving(tmp_path) as server:
        answered, told, body = get(server, **headers)
    assert answered == status
    refusal = json.loads(body)
    assert refusal["code"] == code
    assert refusal["why"]
    assert told["content-type"] == "application/json"
    assert ("www-authenticate" in told) == (status == 401)
    assert told.get("content-range") == (f"bytes */{len(CONTENT)}" if status == 416 else None)


@pytest.mark.parametrize(
    "path", ["/", "/v1/artifacts/", f"/v1/artifacts/../{DIGEST}", f"/v1/artifacts/{DIGEST}%0a"]
)
def test_other_paths_do_not_exist(tmp_path: Path, path: str):
    with serving(tmp_path) as server:
        status, _, body = get(server, path, Authorization=a_grant())
    assert (status, json.loads(body)["code"]) == (404, "not-found")


def test_nothing_can_be_written(tmp_path: Path):
    with serving(tmp_path) as server:
        status, told, _ = get(server, method="PUT", Authorization=a_grant())
    assert (status, told["allow"]) == (405, "GET, HEAD")


def test_what_was_withdrawn_since_the_grant_is_gone(tmp_path: Path):
    with serving(tmp_path) as server:
        (tmp_path / "artifacts" / DIGEST).unlink()
        status, _, body = get(server, Authorization=a_grant())
    assert (status, json.loads(body)["code"]) == (410, "gone")


def test_a_revoked_device_is_refused_although_its_grant_has_not_expired(tmp_path: Path):
    with serving(tmp_path) as server:
        server.bar(DEVICE)
        status, _, body = get(server, Authorization=a_grant())
    assert (status, json.loads(body)["code"]) == (403, "revoked")


def test_a_key_that_no_longer_directs_grants_nothing(tmp_path: Path):
    with serving(tmp_path) as server:
        new = (bytes(ROGUE.verify_key).hex(),)
        server.renew(msgspec.structs.replace(AUTHORITY, director_keys=new))
        status, _, _ = get(server, Authorization=a_grant())
    assert status == 401


def test_a_device_has_so_many_answers_at_once_and_no_more(tmp_path: Path):
    digest = Artifacts(tmp_path / "artifacts").put(os.urandom(40 * 1024 * 1024))
    large = a_grant(a=digest, url=artifact_url("https://fleet.example", digest))
    with serving(tmp_path, device_bytes_per_second=1e6, device_responses=1) as server:
        first = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
        first.request("GET", f"/v1/artifacts/{digest}", headers={"Authorization": large})
        assert first.getresponse().status == 200  # the rest waits for the budget
        status, told, body = get(server, Authorization=a_grant())
        assert (status, json.loads(body)["code"], told["retry-after"]) == (429, "busy", "1")
        first.close()
        eventually(lambda: get(server, Authorization=a_grant(), Range="bytes=0-0")[0] == 206)


def test_a_budget_holds_a_device_to_its_bytes_per_second(tmp_path: Path):
    with serving(tmp_path, device_bytes_per_second=200_000.0) as server:
        begun = time.monotonic()
        get(server, Authorization=a_grant())
    # of three blocks and a bit, a burst of two is free
    assert time.monotonic() - begun > 0.9 * 65_536 / 200_000


def drips_in_vain(slow: socket.socket) -> bool:
    """Send one more byte of a header; True once the other side has hung up."""
    try:
        slow.sendall(b"a")
        return slow.recv(1) == b""
    except TimeoutError:
        return False
    except OSError:
        return True


def test_who_brings_no_whole_request_is_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(doorway, "IDLE_SECONDS", 0.3)
    with serving(tmp_path) as server:
        with socket.create_connection(("127.0.0.1", server.port), timeout=10) as silent:
            assert silent.recv(1) == b""
        with socket.create_connection(("127.0.0.1", server.port), timeout=10) as slow:
            slow.sendall(b"GET / HTTP/1.1\r\nX-Drip: ")
            slow.settimeout(0.02)
            eventually(lambda: drips_in_vain(slow))
        assert get(server, Authorization=a_grant())[0] == 200


def test_an_answer_that_nobody_reads_is_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(downloads, "UNREAD_SECONDS", 0.3)
    large = os.urandom(24 * 1024 * 1024)
    digest = Artifacts(tmp_path / "artifacts").put(large)
    grant = a_grant(a=digest, url=artifact_url("https://fleet.example", digest))
    with serving(tmp_path, device_responses=1) as server:
        asking = socket.create_connection(("127.0.0.1", server.port), timeout=10)
        with asking:
            head = f"GET /v1/artifacts/{digest} HTTP/1.1\r\nHost: x\r\nAuthorization: {grant}"
            asking.sendall(f"{head}\r\n\r\n".encode())
            eventually(lambda: get(server, Authorization=a_grant(), Range="bytes=0-0")[0] == 429)
            eventually(lambda: get(server, Authorization=a_grant(), Range="bytes=0-0")[0] == 206)


def test_more_connections_than_there_is_room_for_are_turned_away(tmp_path: Path):
    with serving(tmp_path, responses=1, device_responses=1) as server:
        crowd = [socket.create_connection(("127.0.0.1", server.port), timeout=10) for _ in range(5)]
        try:
            assert crowd[-1].recv(1) == b""
        except ConnectionResetError:
            pass
        finally:
            for one in crowd:
                one.close()

        def served() -> bool:
            try:
                return get(server, Authorization=a_grant(), Range="bytes=0-0")[0] == 206
            except (ConnectionError, http.client.RemoteDisconnected):
                return False

        eventually(served)


def test_connections_that_never_begin_tls_take_no_more_descriptors_than_there_is_room_for(
    tmp_path: Path,
):
    create_dev_tls(tmp_path / "tls")
    with serving(tmp_path, tls=True, responses=2) as server:
        crowd = [socket.create_connection(("127.0.0.1", server.port), 10) for _ in range(30)]
        try:
            crowd[-1].settimeout(10)
            with suppress(ConnectionResetError):
                assert crowd[-1].recv(1) == b""
            assert len([one for one in server._socket._open if one.fileno() >= 0]) <= 8
        finally:
            for one in crowd:
                one.close()


def test_tls_is_served_by_the_certificate_on_the_disk_also_after_it_was_replaced(tmp_path: Path):
    old = create_dev_tls(tmp_path / "tls")
    with serving(tmp_path, tls=True) as server:

        def speaks_to(ca: str) -> bool:
            context = ssl.create_default_context(cadata=ca)
            asking = http.client.HTTPSConnection(
                "127.0.0.1", server.port, timeout=10, context=context
            )
            try:
                asking.request("GET", "/")
                return asking.getresponse().status == 404
            except ssl.SSLError:
                return False
            finally:
                asking.close()

        new = create_dev_tls(tmp_path / "new")
        assert (speaks_to(old), speaks_to(new)) == (True, False)
        for name in ("server.pem", "server.key"):
            (tmp_path / "new" / name).replace(tmp_path / "tls" / name)
        server.renew(AUTHORITY)
        assert (speaks_to(old), speaks_to(new)) == (False, True)


def test_a_certificate_or_port_that_cannot_be_used_is_named(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"server\.pem"), serving(tmp_path, tls=True):
        pass
    with serving(tmp_path) as server:
        place = Place(
            host="127.0.0.1",
            port=server.port,
            certificate=tmp_path,
            key=tmp_path,
            encrypted=False,
        )
        with pytest.raises(ConflictError, match="downloads"):
            DownloadServer(Artifacts(tmp_path), place, Allowance())


@pytest.mark.parametrize(
    ("wanted", "first", "length"),
    [("bytes=2-", 2, 8), ("bytes=-3", 7, 3), ("bytes=0-99", 0, 10), (" bytes=9-9", 9, 1)],
)
def test_open_and_last_bytes_are_ranges_too(wanted: str, first: int, length: int):
    part = choose_part(wanted, 10)
    assert (part.first, part.length, part.whole) == (first, length, False)


@pytest.mark.parametrize("wanted", ["bytes=5-2", "bytes=-0", "lines=1-2", "bytes=a-b", ""])
def test_what_is_no_range_is_refused(wanted: str):
    with pytest.raises(NotServed) as refused:
        choose_part(wanted, 10)
    assert refused.value.status == 416


@pytest.mark.parametrize(
    "url",
    [
        "http://fleet.example",
        "ftp://fleet.example",
        "https://",
        "https://a.example:0",
        "https://user@a.example",
        "https://a.example/?x=",
        "https://a.example:x",
        "",
    ],
)
def test_an_address_that_is_no_safe_one_is_refused(url: str):
    with pytest.raises(MalformedError):
        check_base(url)


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"url": "https://fleet.example/"}, id="an address of something else"),
        pytest.param({"url": f"http://10.0.0.1/v1/artifacts/{DIGEST}"}, id="in the clear"),
        pytest.param({"device": OTHER}, id="for another device"),
    ],
)
def test_a_device_does_not_follow_a_grant_that_leads_elsewhere(changes: dict[str, str]):
    known = {"device": DEVICE, "a": DIGEST, "url": artifact_url("https://f.example", DIGEST)}
    grant = Grant(issued_ms=NOW, expires_ms=NOW + 1, **(known | changes))
    payload = sign_document(DIRECTOR, GRANT.at(DEVICE).logical, grant)
    with pytest.raises(AgentError):
        believe_grant(payload, authority=AUTHORITY, device=DEVICE)


def test_a_grant_is_the_same_for_every_server_that_knows_the_director():
    shown = a_grant()
    grant = read_grant(shown, authority=AUTHORITY, digest=DIGEST, now_ms=NOW)
    assert (grant.device, grant.a) == (DEVICE, DIGEST)
    with pytest.raises(TrustError):
        read_grant(shown, authority=AUTHORITY, digest=DIGEST, now_ms=NOW + 60_000)


def a_desk(tmp_path: Path, **settings: object) -> Desk:
    config = make_home(tmp_path)
    port = free_port()
    served = DownloadsConfig(url=f"http://127.0.0.1:{port}", **settings)
    (config.home / "fleet.toml").write_text(
        FleetConfig(
            home=config.home, fleet="demo", dev=True, broker=config.broker, downloads=served
        ).render()
    )
    return open_desk(FleetConfig.load(config.home), "", lambda _run, _word: None)


def answer_to(desk: Desk, device_id: str) -> Grant:
    sent = [o for o in desk.outgoing if o.address == GRANT.at(device_id)]
    return believe_grant(sent[-1].payload, authority=desk.repository.authority(), device=device_id)


def test_the_manager_grants_what_it_keeps_and_says_why_not(tmp_path: Path):
    desk = a_desk(tmp_path)
    digest = desk.artifacts.put(CONTENT)
    device = join(desk)
    device.says(desk, GRANT_REQUEST.at(device.id), GrantRequest(a=digest))
    grant = answer_to(desk, device.id)
    assert grant.url == f"{desk.config.downloads.url}/v1/artifacts/{digest}"
    assert grant.expires_ms - grant.issued_ms == desk.config.downloads.grant_seconds * 1000
    device.says(desk, GRANT_REQUEST.at(device.id), GrantRequest(a="ab" * 32))
    refused = answer_to(desk, device.id)
    assert (refused.url, "no such artifact" in refused.why) == ("", True)


def test_a_question_for_leave_that_its_device_did_not_sign_is_dropped(tmp_path: Path):
    desk = a_desk(tmp_path)
    device, other = join(desk), join(desk)
    device.says(desk, GRANT_REQUEST.at(other.id), GrantRequest(a=desk.artifacts.put(CONTENT)))
    assert not [o for o in desk.outgoing if o.address.channel is GRANT]


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"url": "http://fleet.example"}, "downloads.url"),
        ({"port": 70_000}, "downloads.port"),
        ({"grant_seconds": 86_400}, "downloads.grant_seconds"),
        ({"certificate": "a.pem"}, "downloads.key"),
        ({"responses": 0}, "downloads"),
    ],
)
def test_a_setting_that_cannot_be_is_named(settings: dict[str, object], named: str):
    with pytest.raises(ConfigError, match=named):
        DownloadsConfig(**settings)


def test_where_to_listen_follows_from_the_address_unless_it_is_said():
    everywhere = ("0.0.0.0", 8885)  # noqa: S104 - devices are elsewhere
    assert DownloadsConfig(url="https://f.example:8885").address == everywhere
    assert DownloadsConfig(url="http://localhost:81").address == ("127.0.0.1", 81)
    behind = DownloadsConfig(url="https://f.example", bind="127.0.0.1", port=8080, plain=True)
    assert (behind.address, behind.encrypted) == (("127.0.0.1", 8080), False)
