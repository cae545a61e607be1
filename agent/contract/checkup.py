"""What a doctor found: one line for each thing it looked at, on a device and on a manager.

Rule 1: a check has one name, which is stable, and one sentence: what is so, and what to do.
Rule 2: ``fail`` is what keeps something from working now, ``warn`` what will or may, and
        both leave a non-zero exit status only for ``fail``: a monitor wakes nobody early.
Rule 3: the checks that both sides make alike are made here, from values.
"""

from typing import Final, Literal

from msgspec import Struct

from agent.contract.broker_url import BrokerUrl
from agent.contract.codec import Versioned
from agent.contract.plain_text import plain
from agent.contract.proxy import Proxies
from agent.errors import MalformedError

State = Literal["ok", "warn", "fail"]

PROXY_VARIABLES: Final = ("http_proxy", "https_proxy", "all_proxy", "mqtt_proxy", "ftp_proxy")
DAY_MS: Final = 86_400_000
_MIB: Final = 1024 * 1024


class Check(Struct, frozen=True, kw_only=True):
    """One thing that was looked at.

    Attributes:
        name: Stable; a slot or a role follows a colon: ``model:motion``.
        state: ``ok``, ``warn`` or ``fail``.
        why: What is so, and where it is not well, what to do.

    """

    name: str
    state: State
    why: str


class Checkup(Versioned, frozen=True, kw_only=True):
    """Everything that was looked at, in the order in which it should be mended."""

    checks: tuple[Check, ...]

    @property
    def failed(self) -> bool:
        """Whether something does not work."""
        return any(check.state == "fail" for check in self.checks)


def well(name: str, why: str) -> Check:
    """Return a check that found nothing wrong."""
    return Check(name=name, state="ok", why=why)


def doubt(name: str, why: str) -> Check:
    """Return a check that found what will or may go wrong."""
    return Check(name=name, state="warn", why=why)


def ill(name: str, why: str) -> Check:
    """Return a check that found what does not work."""
    return Check(name=name, state="fail", why=why)


def describe(checkup: Checkup) -> str:
    """Return a checkup for a person.

    >>> print(describe(Checkup(checks=(well("disk", "9 MiB are free"), ill("trust", "no root")))))
    ok   disk: 9 MiB are free
    FAIL trust: no root
    """
    marks = {"ok": "ok  ", "warn": "warn", "fail": "FAIL"}
    return "\n".join(
        f"{marks[check.state]} {plain(check.name)}: {' '.join(plain(check.why).split())}"
        for check in checkup.checks
    )


def check_proxies(proxies: Proxies, url: str) -> Check:
    """Name the proxy on the way to a broker, or the settings that are not used.

    >>> broker = "mqtts://broker.example"
    >>> check_proxies(Proxies(None, {"HTTPS_PROXY": "http://10.0.0.1:3128"}), broker).why
    'MQTT goes through the HTTP proxy 10.0.0.1:3128'
    >>> check_proxies(Proxies(None, {"http_proxy": "http://10.0.0.1:3128"}), broker).state
    'warn'
    """
    environment = proxies.environment
    names = sorted(n for n, v in environment.items() if v and n.lower() in PROXY_VARIABLES)
    try:
        proxy = proxies.towards(BrokerUrl.parse(url)) if url else None
    except MalformedError as why:
        return ill("proxy", f"{why}: set the proxy anew, or none")
    if proxy is not None:
        return well("proxy", f"MQTT goes through the HTTP proxy {proxy.where}")
    if proxies.setting is not None:
        return well("proxy", "the settings say to go straight")
    if names and url:
        return doubt(
            "proxy",
            f"{', '.join(names)} is set and not used for {url}: for MQTT only https_proxy and "
            "all_proxy hold, only with TLS, and neither where no_proxy names the broker nor to "
            "this machine itself; if there is no straight way, set the proxy in the configuration",
        )
    return well("proxy", "no proxy is set, MQTT goes straight")


def check_space(free_bytes: int, *, needed_bytes: int, spare_bytes: int, what: str) -> Check:
    """Judge free disk space: below ``needed`` it fails, below ``spare`` it warns.

    >>> check_space(5, needed_bytes=10, spare_bytes=20, what="a release").state
    'fail'
    """
    free, needed = _mib(free_bytes), _mib(needed_bytes)
    if free_bytes < needed_bytes:
        return ill("disk", f"{free} MiB are free, {what} needs {needed} MiB: free some space")
    if free_bytes < spare_bytes:
        return doubt("disk", f"{free} MiB are free, which is little: free some space")
    return well("disk", f"{free} MiB are free")


def _mib(size_bytes: int) -> int:
    return size_bytes // _MIB


def span(milliseconds: int) -> str:
    """Return a length of time in words that fit a sentence.

    >>> span(3 * DAY_MS), span(90_000)
    ('3 days', '1 minutes')
    """
    minutes = abs(milliseconds) // 60_000
    if minutes >= 2 * 1440:
        return f"{minutes // 1440} days"
    return f"{minutes // 60} hours" if minutes >= 2 * 60 else f"{minutes} minutes"
