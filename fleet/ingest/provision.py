"""One broker account a device: made at enrolment, taken away at revocation.

Rule 1: ``grant`` and ``revoke`` may be repeated; what exists is removed first.
Rule 2: a revoked device loses client *and* role: a disabled client could return by
        certificate. Deleting the client cuts its live connection.
Rule 3: the broker accepts names such as ``a#`` or the empty one; we do not.
Rule 4: every request carries its own mark, and only answers with that mark count.

mosquitto's dynamic security, over ``$CONTROL/dynamic-security/v1``.
"""

import secrets
from time import monotonic
from typing import Annotated

import msgspec

from agent.contract.limits import require_name
from agent.contract.topics import Topics
from agent.errors import MalformedError
from fleet.errors import RefusedError, UnreachableError
from fleet.ingest.broker import BrokerLink
from fleet.ingest.mail import Arrived, Connection, Disconnected, Message
from fleet.ingest.mosquitto import (
    CONTROL_TOPIC,
    ENROL_USER,
    MANAGER_USER,
    PROVISIONER_USER,
    Accounts,
    BrokerLayout,
    device_acl,
    find_dynamic_security,
    new_password,
    prepare_broker,
    render_mosquitto_conf,
)

__all__ = [
    "ENROL_USER",
    "MANAGER_USER",
    "PROVISIONER_USER",
    "Accounts",
    "BrokerLayout",
    "Provisioner",
    "find_dynamic_security",
    "prepare_broker",
    "render_mosquitto_conf",
]

ANSWER_SECONDS = 10.0
ABSENT = frozenset({"Client not found", "Role not found"})
PRESENT = frozenset({"Client already exists", "Role already exists"})


class _Answer(msgspec.Struct, frozen=True):
    """The broker's word on one command."""

    command: str
    correlation: str = msgspec.field(name="correlationData", default="")
    error: str | None = None


class _Answers(msgspec.Struct, frozen=True):
    responses: Annotated[tuple[_Answer, ...], msgspec.Meta(max_length=64)]


Command = dict[str, object]


class Provisioner:
    """Gives and takes the accounts of devices; connects when first needed."""

    def __init__(self, connection: Connection, topics: Topics) -> None:
        self._connection = connection
        self._topics = topics
        self._link: BrokerLink | None = None

    def grant(self, device: str) -> str:
        """Make, or make anew, the account of a device and return its password.

        Raises:
            UnreachableError: The broker does not answer.
            RefusedError: The broker said no, or the name may not be an account.

        """
        role = _role(device)
        password = new_password()
        self.revoke(device)
        self._ask(
            {
                "command": "createRole",
                "rolename": role,
                "acls": device_acl(self._topics, device),
            },
            {
                "command": "createClient",
                "username": device,
                "clientid": device,
                "password": password,
                "roles": [{"rolename": role, "priority": 0}],
            },
        )
        return password

    def revoke(self, device: str) -> None:
        """Remove the account of a device; a live connection is cut at once.

        Raises:
            UnreachableError: The broker does not answer.
            RefusedError: The broker said no, or the name may not be an account.

        """
        role = _role(device)
        self._ask(
            {"command": "deleteClient", "username": device},
            {"command": "deleteRole", "rolename": role},
            tolerate=ABSENT,
        )

    def close(self) -> None:
        """Disconnect; the next request connects anew."""
        if self._link is not None:
            self._link.close()
            self._link = None

    def _ask(self, *commands: Command, tolerate: frozenset[str] = frozenset()) -> None:
        mark = secrets.token_hex(8)
        marked = [
            {**command, "correlationData": f"{mark}-{index}"}
            for index, command in enumerate(commands)
        ]
        payload = msgspec.json.encode({"commands": marked})
        try:
            answers, repeated = self._wait_for(mark, payload, len(marked))
        except UnreachableError:
            self.close()
            raise
        # what our own first sending made is not a conflict
        tolerated = tolerate | PRESENT if repeated else tolerate
        for answer in answers:
            if answer.error is not None and answer.error not in tolerated:
                raise RefusedError(f"the broker refused {answer.command}: {answer.error}")

    def _wait_for(self, mark: str, payload: bytes, count: int) -> tuple[list[_Answer], bool]:
        link = self._link = self._link or BrokerLink(
            self._connection, subscriptions=((f"{CONTROL_TOPIC}/response", 1),)
        )
        deadline = monotonic() + ANSWER_SECONDS
        request = Message(topic=CONTROL_TOPIC, payload=payload)
        sent, repeated, why = link.publish(request), False, ""
        answers: list[_Answer] = []
        while len(answers) < count:
            if monotonic() > deadline:
                raise UnreachableError(f"the broker does not answer about accounts {why}".rstrip())
            for news in link.poll(0.5):
                match news:
                    case Arrived():
                        link.settle([news])
                        answers += [a for a in _read(news.payload) if a.correlation[:16] == mark]
                    case Disconnected():
                        # the commands are repeatable: send all of them again
                        repeated, why, answers = repeated or sent, f"({news.why})", []
                        sent = False
            sent = sent or link.publish(request)
        return answers, repeated


def _role(device: str) -> str:
    try:
        return f"device-{require_name(device, 'device')}"
    except MalformedError as why:
        raise RefusedError(str(why)) from why


def _read(payload: bytes) -> tuple[_Answer, ...]:
    try:
        return msgspec.json.decode(payload, type=_Answers).responses
    except msgspec.MsgspecError as why:
        raise UnreachableError(f"the broker's answer about accounts does not parse: {why}") from why
