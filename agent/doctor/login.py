"""What the way to a broker means: each stop on it, and whose move it is then.

Rule 1: the certificate is judged together with the clock, because a wrong clock looks
        like a wrong certificate.
Rule 2: codes are those of MQTT 5 (OASIS, 2019, 2.4) and of OpenSSL's X.509 verification.
"""

from typing import Final, assert_never

from agent.contract.checkup import Check, doubt, ill, well
from agent.doctor.facts import (
    Deaf,
    Mute,
    NoName,
    NoPort,
    NoProxy,
    NoTls,
    NotTried,
    Open,
    Refused,
    Way,
)

NOT_YET_VALID: Final = 9
RAN_OUT: Final = 10
UNKNOWN_AUTHORITY: Final = frozenset({2, 7, 18, 19, 20, 21, 30})
"""7: an authority of the same name with another key, as after a second `init`."""
OTHER_HOST: Final = frozenset({62, 64})
_BAD_LOGIN: Final = frozenset({0x86, 0x87})
_BUSY: Final = frozenset({0x88, 0x89, 0x97, 0x9C, 0x9D, 0x9F})
_BANNED: Final = 0x8A


def check_way(name: str, way: Way, *, clock_is_wrong: bool) -> Check:
    """Judge the way to one broker.

    Args:
        name: Of the check.
        way: How far it was open.
        clock_is_wrong: Whether the system clock is known to be.

    """
    match way:
        case Open(address=address, far=far):
            return well(name, f"{address}: {far}")
        case NotTried(why=why):
            return doubt(name, f"was not tried: {why}")
        case NoProxy(why=why):
            return ill(
                name,
                f"{why}; the proxy is set in [link] proxy or in HTTPS_PROXY of the agent's "
                'environment, proxy = "none" goes straight',
            )
        case NoName(host=host, why=why):
            return ill(
                name,
                f"the name {host} leads nowhere ({why}): is this network up, and its name server?",
            )
        case NoPort(address=address, why=why):
            return ill(
                name,
                f"nothing answers at {address} ({why}): does the broker run, and does every "
                "firewall between let this port through?",
            )
        case NoTls():
            return _check_certificate(name, way, clock_is_wrong=clock_is_wrong)
        case Refused(why=why, code=code):
            return ill(name, f"{why}; {_refused(code)}")
        case Deaf(why=why):
            return ill(
                name,
                f"{why}: the broker lets this device in and not listen; its rights were changed "
                "or lost: run `fieldfare doctor` on the manager, or enrol this device again",
            )
        case Mute(why=why):
            return ill(
                name,
                f"{why}: the broker lets this device listen and not report; its rights were "
                "changed or lost: run `fieldfare doctor` on the manager, or enrol it again",
            )
        case _:
            assert_never(way)


def _check_certificate(name: str, way: NoTls, *, clock_is_wrong: bool) -> Check:
    code, said = way.code, f"the certificate of {way.address} is not believed ({way.why})"
    if code == NOT_YET_VALID or (code == RAN_OUT and clock_is_wrong):
        return ill(
            name,
            f"{said}: this device's clock is the likely cause; set it (`timedatectl`), and give "
            "a board without a battery a time server that it reaches",
        )
    if code == RAN_OUT:
        return ill(name, f"{said}: whoever runs the broker has to renew it")
    if code in UNKNOWN_AUTHORITY:
        return ill(
            name,
            f"{said}: another authority signed it than the enrolment file named; is this the "
            "right broker? If its authority was changed, enrol this device again",
        )
    if code in OTHER_HOST:
        return ill(
            name, f"{said}: it does not name this address; make it anew for this name or address"
        )
    if code:
        return ill(name, f"{said}: ask whoever runs the broker")
    return ill(
        name,
        f"{way.address} is open and does not speak TLS as expected ({way.why}): is it the right "
        "port, 8883 and not 1883?",
    )


def _refused(code: int | None) -> str:
    match code:
        case None:
            return "it may want TLS (mqtts://), or may be no MQTT 5 broker"
        case _ if code in _BAD_LOGIN:
            return (
                "the account is gone or its password is another: this device was revoked, or the "
                "broker's accounts were lost; enrol it again with a new token"
            )
        case _ if code == _BANNED:
            return "this device is banned there: ask whoever runs the broker"
        case _ if code in _BUSY:
            return "the broker has no room at present: look at its limits and its log"
        case _:
            return "look into the broker's log"
