"""Who has an account at the broker, and what each may do.

Rule 1: everything that is not granted is denied.
Rule 2: strangers have a public password and two topics; they take a random one of many
        accounts, so that they seldom meet.
Rule 3: a device writes below its own ``up`` and reads below its own ``dn``; it hears groups
        and managers.

Password hashes as mosquitto makes them, in files and in its dynamic security alike:
PBKDF2-HMAC-SHA512.
"""

import base64
import hashlib
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from agent.contract.limits import ENROL_SEATS, enrol_seat
from agent.contract.topics import ENROL_REPLY, ENROL_REQUEST, Topics, Way

MANAGER_USER = "fieldfare-manager"
PROVISIONER_USER = "fieldfare-provisioner"
ENROL_USER = "enrol"
CONTROL_TOPIC = "$CONTROL/dynamic-security/v1"

HASH_ITERATIONS = 101  # mosquitto's own figure; these passwords are 192 random bits
SALT_BYTES = 12
ANY_OWNER = "+"

Acl = dict[str, str | int | bool]


@dataclass(frozen=True, slots=True, kw_only=True)
class Hashed:
    """A password as both backends keep it: PBKDF2-HMAC-SHA512, salt and digest in base64."""

    salt: str
    digest: str
    iterations: int

    @classmethod
    def of(cls, password: str) -> Self:
        """Hash a password with a new salt."""
        salt = secrets.token_bytes(SALT_BYTES)
        digest = hashlib.pbkdf2_hmac("sha512", password.encode(), salt, HASH_ITERATIONS)
        return cls(
            salt=base64.b64encode(salt).decode(),
            digest=base64.b64encode(digest).decode(),
            iterations=HASH_ITERATIONS,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Accounts:
    """The first passwords; the enrolment password is public and opens two topics."""

    manager: str
    provisioner: str
    enrol: str


def new_password() -> str:
    """Return 192 random bits, URL-safe."""
    return secrets.token_urlsafe(24)


def first_passwords(accounts: Accounts) -> dict[str, Hashed]:
    """Return who is let in before the first device joins."""
    return {
        MANAGER_USER: Hashed.of(accounts.manager),
        PROVISIONER_USER: Hashed.of(accounts.provisioner),
        **{seat: Hashed.of(accounts.enrol) for seat in enrol_seats()},
    }


def enrol_seats() -> tuple[str, ...]:
    """Return the accounts that strangers share."""
    return tuple(enrol_seat(ENROL_USER, seat) for seat in range(ENROL_SEATS))


def dynamic_security(passwords: Mapping[str, Hashed], topics: Topics) -> dict[str, object]:
    """Return dynamic security's file; what no role grants is denied.

    Args:
        passwords: By user name; whoever is not the manager, the provisioner or a stranger
            is a device.
        topics: The fleet's tree.

    """
    shared = {
        MANAGER_USER: "manager",
        PROVISIONER_USER: "provisioner",
        **dict.fromkeys(enrol_seats(), "enrol"),
    }
    devices = [name for name in passwords if name not in shared]
    return {
        "defaultACLAccess": {
            "publishClientSend": False,
            "publishClientReceive": False,
            "subscribe": False,
            "unsubscribe": True,
        },
        "clients": [
            _client(name, hashed, shared.get(name) or device_role(name))
            for name, hashed in passwords.items()
        ],
        "groups": [],
        "roles": [
            {"rolename": "manager", "acls": manager_acl(topics)},
            {"rolename": "provisioner", "acls": _provisioner_acl()},
            {"rolename": "enrol", "acls": enrol_acl(topics)},
            *({"rolename": device_role(d), "acls": device_acl(topics, d)} for d in devices),
        ],
    }


def device_role(device: str) -> str:
    """Return the name of a device's own role."""
    return f"device-{device}"


def manager_acl(topics: Topics) -> list[Acl]:
    """Write to devices and groups, read what all say, and clear what they retained."""
    up = f"{topics.root}/{Way.UP}/#"
    sends = [f"{topics.root}/{way}/#" for way in (Way.DOWN, Way.GROUP, Way.SERVER, Way.UP)]
    asked, answered = _enrol_topics(topics)
    return [
        *(allow("publishClientSend", topic) for topic in (*sends, asked, answered)),
        *(allow("publishClientReceive", topic) for topic in (up, asked)),
        *(allow("subscribePattern", topic) for topic in (up, asked)),
    ]


def enrol_acl(topics: Topics) -> list[Acl]:
    """A stranger asks under a nonce and hears what is said to that nonce; replies are sealed."""
    asked, answered = _enrol_topics(topics)
    return [
        allow("publishClientSend", asked),
        allow("publishClientReceive", answered),
        allow("subscribePattern", answered),
    ]


def device_acl(topics: Topics, device: str) -> list[Acl]:
    """Write below its own ``up``, read below its own ``dn``, hear groups and managers."""
    up = f"{topics.root}/{Way.UP}/{device}/#"
    reads = topics.of_device(device)
    return [
        allow("publishClientSend", up),
        *(allow("publishClientReceive", topic) for topic in reads),
        *(allow("subscribePattern", topic) for topic in reads),
    ]


def allow(acl: str, topic: str) -> Acl:
    """Return one granting line."""
    return {"acltype": acl, "topic": topic, "priority": 0, "allow": True}


def _enrol_topics(topics: Topics) -> tuple[str, str]:
    """Return the enrolment filters: one nonce is a single segment."""
    probe = "nonce"
    asked = topics.write(ENROL_REQUEST.at(probe)).removesuffix(probe)
    answered = topics.write(ENROL_REPLY.at(probe)).removesuffix(probe)
    return f"{asked}{ANY_OWNER}", f"{answered}{ANY_OWNER}"


def _provisioner_acl() -> list[Acl]:
    control = "$CONTROL/dynamic-security/#"
    kinds = ("publishClientSend", "publishClientReceive", "subscribePattern")
    return [allow(kind, control) for kind in kinds]


def _client(name: str, hashed: Hashed, role: str) -> dict[str, object]:
    return {
        "username": name,
        "clientid": name,
        "textName": f"Fieldfare {role}",
        "password": hashed.digest,
        "salt": hashed.salt,
        "iterations": hashed.iterations,
        "roles": [{"rolename": role}],
    }
