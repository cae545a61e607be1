"""Enrolment, start to end: the exchange with the fleet, and what is kept of it.

Rule 1: the reply's metadata is verified in a child, from the root that the enrolment file
        pins, before anything in the reply is believed.
Rule 2: trust is saved before the credentials: a cut in between leaves a device that is
        not enrolled, never one that believes nobody.
Rule 3: a device that waits for approval asks again; its token is counted once.
"""

import secrets
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue

from nacl.signing import SigningKey

from agent.contract.authority import Authority
from agent.contract.enrolment import EnrolmentFile, EnrolReply
from agent.contract.proxy import STRAIGHT, Proxies
from agent.contract.topics import Topics
from agent.daemon.host import AGENT_VERSION
from agent.daemon.moments import awake_seconds
from agent.daemon.refreshing import REFRESH_LIMITS
from agent.disk import Disk
from agent.errors import (
    AgentError,
    AlreadyEnrolledError,
    ApprovalPendingError,
    ConfigError,
    DisplacedError,
    MalformedError,
)
from agent.identity.certificate import install
from agent.identity.clock import TrustedClock
from agent.identity.device_key import load_or_create
from agent.identity.enrol import (
    Credentials,
    accept_reply,
    build_request,
    load_credentials,
    open_reply,
    read_enrolment_file,
    save_credentials,
)
from agent.link.connection import Connection, Outgoing
from agent.link.session import exchange
from agent.observe.resources import describe_machine
from agent.update import trust
from agent.worker.start import Finished, start

ASK_AGAIN_SECONDS = 5.0
TRIES = 4  # strangers share seats at the broker, and may displace each other


def enrol(
    path: Path,
    state_dir: Path,
    *,
    hardware: str | None = None,
    wait_seconds: float = 0.0,
    answer_seconds: float = 30.0,
    proxies: Proxies = STRAIGHT,
    waiting: Callable[[str], None] = lambda _: None,
) -> Credentials:
    """Enrol this device with the file of ``fieldfare token create``; the lock is held.

    Args:
        path: The enrolment file.
        state_dir: Where identity, trust and credentials go.
        hardware: Overrides what is detected.
        wait_seconds: How long to wait for an operator's approval.
        answer_seconds: How long to wait for each answer.
        proxies: What may be between.
        waiting: Told once why the device waits.

    Raises:
        ConfigError: The file is not an enrolment file, or pins no root.
        EnrolmentError: The token has run out, the fleet refused us, approval did not come
            in time, or the device is enrolled already.
        LinkError: The broker cannot be reached, or nobody answers.
        TrustError: The answer must not be believed.

    """
    disk = Disk(state_dir)
    clock = TrustedClock(disk, awake_seconds, time.time)
    try:
        content = path.read_bytes()
    except OSError as why:
        raise ConfigError(f"{path}: {why.strerror or why}") from why
    file = read_enrolment_file(content, now_ms=clock.now_ms())
    enrolled = load_credentials(disk)
    if enrolled is not None:
        raise AlreadyEnrolledError(
            f"{state_dir} is enrolled in fleet {enrolled.fleet} as {enrolled.device} already:"
            " use another state directory, or remove it to become another device"
        )
    name = describe_machine(hardware).hardware
    deadline = time.monotonic() + wait_seconds
    told = False
    tls_key = SigningKey.generate()
    while True:
        reply, state = _ask(
            disk, file, clock, name, answer_seconds, proxies=proxies, tls_key=tls_key
        )
        credentials = accept_reply(reply, file)
        if credentials is not None:
            trust.save(disk, state)
            if reply.certificate is not None:
                install(disk, tls_key, reply.certificate)
            save_credentials(disk, credentials)
            return credentials
        if time.monotonic() + ASK_AGAIN_SECONDS > deadline:
            raise ApprovalPendingError(
                f"{reply.device} waits for approval{': ' if reply.why else ''}{reply.why};"
                f" after `fieldfare device approve {reply.device}` enrol again, or use --wait"
            )
        if not told:
            waiting(f"{reply.device} waits for `fieldfare device approve {reply.device}`")
            told = True
        threading.Event().wait(ASK_AGAIN_SECONDS)


def _ask(
    disk: Disk,
    file: EnrolmentFile,
    clock: TrustedClock,
    hardware: str,
    answer_seconds: float,
    *,
    proxies: Proxies,
    tls_key: SigningKey,
) -> tuple[EnrolReply, trust.TrustState]:
    for _ in range(TRIES - 1):
        with suppress(DisplacedError):
            return _ask_once(
                disk, file, clock, hardware, answer_seconds, proxies=proxies, tls_key=tls_key
            )
    return _ask_once(disk, file, clock, hardware, answer_seconds, proxies=proxies, tls_key=tls_key)


def _ask_once(
    disk: Disk,
    file: EnrolmentFile,
    clock: TrustedClock,
    hardware: str,
    answer_seconds: float,
    *,
    proxies: Proxies,
    tls_key: SigningKey,
) -> tuple[EnrolReply, trust.TrustState]:
    key = load_or_create(disk)
    nonce = secrets.token_hex(16)
    asking = build_request(
        file, key, nonce, hardware=hardware, agent=AGENT_VERSION, tls_key=tls_key.verify_key
    )
    payload = exchange(
        Connection(
            url=file.enrol_url,
            ca=file.broker_ca,
            username=file.username or None,
            password=file.password or None,
            client_id=f"enrol-{nonce[:16]}",
            session_expiry_seconds=0,
            proxies=proxies,
        ),
        Topics(fleet=file.fleet, prefix=file.prefix),
        Outgoing(address=asking.request, payload=asking.payload),
        asking.reply,
        timeout_seconds=answer_seconds,
    )
    verified: list[trust.TrustState] = []

    def verify_chain(files: dict[str, bytes]) -> Authority:
        state = verify_from_root(files, file.root_digest, clock.now_ms())
        verified.append(state)
        return state.who_directs()

    reply = open_reply(payload, key=key, nonce=nonce, fleet=file.fleet, verify_chain=verify_chain)
    return reply, verified[-1]


def verify_from_root(files: dict[str, bytes], root_digest: str, now_ms: int) -> trust.TrustState:
    """Verify a metadata chain from a pinned root, in a child, and wait for it.

    Raises:
        TrustError: It must not be believed.
        MalformedError: It does not parse.

    """
    pinned = trust.pin_among(files, root_digest)
    job = trust.RefreshJob(state=pinned, files=files, now_ms=now_ms)
    answers: SimpleQueue[Finished] = SimpleQueue()
    start("refresh", job, ticket="enrol", limits=REFRESH_LIMITS, deliver=answers.put)
    match answers.get().answer:
        case trust.RefreshAnswer(result=result):
            return trust.believe(result).state
        case AgentError() as why:
            raise why
        case _:
            raise MalformedError("the refresh worker answered something else")
