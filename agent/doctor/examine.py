"""From what was seen to what is wrong: pure checks, in the order in which to mend.

Rule 1: a check says nothing that another has said already: what follows from a cause is
        left out where the cause is named.
"""

from collections.abc import Iterator

from agent.contract.checkup import (
    Check,
    Checkup,
    check_proxies,
    check_space,
    doubt,
    ill,
    well,
)
from agent.contract.proxy import Proxies
from agent.doctor.belief import (
    check_assignment,
    check_clock,
    check_trust,
    clock_is_wrong,
    day_of,
)
from agent.doctor.facts import Facts, Held, NotTried
from agent.doctor.login import check_way
from agent.errors import AgentError
from agent.identity.enrol import Credentials
from agent.update.slot import State
from agent.worker.jobs import CheckAnswer

_OTHERS = 0o077
_SECRETS = ("identity.json", "enrolled.json", "certificate.json", "certificate.pem")
_NEARLY = 0.8
_ENROL = "run `fieldfare-agent enrol FILE` with the file of `fieldfare token create`"


def examine(facts: Facts) -> Checkup:
    """Judge one device."""
    return Checkup(checks=tuple(_all(facts)))


def _all(facts: Facts) -> Iterator[Check]:
    yield _machine(facts)
    yield _config(facts)
    match facts.held:
        case None:
            why = f"{facts.state_dir} does not exist: no device is enrolled here; {_ENROL}"
            yield ill("state", why)
        case AgentError() as why:
            yield ill("state", f"{why}; run the doctor as the agent's user, or as root")
        case Held() as held:
            yield from _permissions(facts, held)
            yield _agent(held)
            yield _enrolment(held)
            yield from _certificate(held, facts.now_ms)
            yield from check_trust(held, facts.now_ms)
            yield from check_clock(held, facts.now_ms)
            yield check_assignment(held, facts.now_ms)
            yield _outbox(facts, held)
            yield _space(facts, held)
            yield from _slots(facts, held)
    yield from _runtimes(facts)
    yield from _sources(facts)
    yield from _serve(facts)
    yield _proxy(facts)
    yield from _brokers(facts)


def _machine(facts: Facts) -> Check:
    if facts.unsupported:
        return ill("machine", facts.unsupported)
    return well("machine", "64-bit Linux")


def _config(facts: Facts) -> Check:
    if isinstance(facts.config, AgentError):
        return ill("config", f"{facts.config}; everything below goes by the defaults")
    slots = ", ".join(facts.config.pipeline)
    if not slots:
        return doubt("config", "no [pipeline.<slot>] is set: no model will run here")
    return well("config", f"pipelines: {slots}")


def _permissions(facts: Facts, held: Held) -> Iterator[Check]:
    owner = next((entry.uid for entry in held.entries if entry.name == "."), held.uid)
    foreign = [entry.name for entry in held.entries if entry.uid != owner]
    bare = [e.name for e in held.entries if e.name in _SECRETS and e.mode & _OTHERS]
    place = facts.state_dir
    if not held.writable:
        yield ill(
            "state",
            f"{place} cannot be written: is its medium mounted read-only, or is it another "
            "user's? Run the doctor as the agent's user",
        )
    elif foreign:
        yield ill(
            "state",
            f"{', '.join(foreign[:3])} belongs to another user than {place} itself, as after "
            f"enrolling by another: chown -R --reference={place} {place}",
        )
    elif any(e.name == "." and e.mode & _OTHERS for e in held.entries):
        yield doubt("state", f"{place} is open to other users: chmod 700 it")
    else:
        yield well("state", f"{place} belongs to its user alone")
    if bare:
        yield ill(
            "secrets",
            f"{' and '.join(bare)} can be read by other users: chmod 600; if somebody may have "
            "copied it, revoke this device and enrol it as a new one",
        )


def _agent(held: Held) -> Check:
    if held.running:
        return well("agent", "an agent runs on this state and holds its lock")
    return doubt("agent", "no agent runs on this state: systemctl start fieldfare-agent")


def _enrolment(held: Held) -> Check:
    device, credentials = held.device, held.credentials
    for found in (device, credentials, held.boots):
        if isinstance(found, AgentError):
            return ill("enrolment", str(found))
    if not isinstance(credentials, Credentials) or device is None:
        return ill("enrolment", f"this device is not enrolled: {_ENROL}")
    if credentials.device != device:
        return ill(
            "enrolment",
            f"the credentials are of {credentials.device} and the key is of {device}: two state "
            "directories were mixed; restore one of them whole, or enrol anew",
        )
    return well("enrolment", f"{device} of fleet {credentials.fleet}, boot {held.boots}")


def _certificate(held: Held, now_ms: int) -> Iterator[Check]:
    match held.certificate:
        case None:
            return
        case AgentError() as why:
            yield ill("certificate", f"{why}: restore it, or enrol this device again")
        case file if now_ms >= file.certificate.expires_ms:
            yield ill(
                "certificate",
                f"this device's certificate for the broker ran out on "
                f"{day_of(file.certificate.expires_ms)}; a broker that asks for certificates does "
                f"not let it in: set the clock if that is wrong, or {_ENROL} in an empty state "
                "directory",
            )
        case file if file.is_due(now_ms):
            yield doubt(
                "certificate",
                f"it holds until {day_of(file.certificate.expires_ms)} and should have been "
                "replaced: the agent asks for another one when it is online",
            )
        case file:
            yield well("certificate", f"it holds until {day_of(file.certificate.expires_ms)}")


def _outbox(facts: Facts, held: Held) -> Check:
    if isinstance(held.outbox, AgentError):
        return ill("outbox", str(held.outbox))
    totals = held.outbox
    quota = 0 if isinstance(facts.config, AgentError) else facts.config.outbox.quota_bytes
    if quota and totals.size_bytes >= _NEARLY * quota:
        share = round(100 * totals.size_bytes / quota)
        return doubt(
            "outbox",
            f"{totals.pending} reports fill {share}% of its quota; then the oldest are dropped: "
            "has this device been away, or does the manager not acknowledge? Mend that, or "
            "raise outbox.quota_bytes",
        )
    if totals.dropped:
        return doubt(
            "outbox",
            f"{totals.dropped} of {totals.appended} reports were dropped for lack of room or by a "
            f"damaged medium; {totals.pending} wait",
        )
    return well("outbox", f"{totals.pending} reports wait, none was ever dropped")


def _space(facts: Facts, held: Held) -> Check:
    if isinstance(facts.config, AgentError):
        needed = quota = 0
    else:
        needed, quota = facts.config.update.reserve_bytes, facts.config.outbox.quota_bytes
    spare = needed + quota
    return check_space(
        held.free_bytes, needed_bytes=needed, spare_bytes=spare, what="fetching a release"
    )


def _slots(facts: Facts, held: Held) -> Iterator[Check]:
    known = () if isinstance(facts.config, AgentError) else tuple(facts.config.pipeline)
    for slot, state in held.slots.items():
        name = f"model:{slot}"
        if isinstance(state, AgentError):
            yield ill(name, str(state))
        elif known and slot not in known:
            yield doubt(name, f"a model is kept for {slot}, and no [pipeline.{slot}] is set")
        else:
            yield _model(name, state, facts.checked.get(slot))


def _model(name: str, state: State, checked: CheckAnswer | AgentError | None) -> Check:
    match checked:
        case None:
            nothing = state.current is None
            return doubt(name, "no release runs yet" if nothing else "could not be loaded here")
        case AgentError() as why:
            return ill(
                name,
                f"the running release does not load: {why}; the agent fetches what is rotten "
                "again when it starts, and rolls back where it may",
            )
        case CheckAnswer(findings=findings):
            bad = [finding for finding in findings if not finding.held]
            if bad:
                return ill(name, f"the running release fails its own check: {bad[0].why}")
            return well(name, "the running release loads and answers as it should")


def _runtimes(facts: Facts) -> Iterator[Check]:
    probe = facts.probe
    say = doubt if probe.runtimes else ill
    for unusable in probe.unusable:
        yield say(f"runtime:{unusable.library.removeprefix('runtime.')}", unusable.why)
    if probe.runtimes:
        names = ", ".join(
            f"{r.library or r.name} {r.version}{f' in runtime.{r.worker}' if r.worker else ''}"
            for r in probe.runtimes
        )
        yield well("runtime", f"{names} made an inference")
    elif not probe.unusable:
        yield ill(
            "runtime",
            "no runtime is installed: install one beside the agent, "
            "pip install 'fieldfare[onnx]' or 'fieldfare[litert]'",
        )
    if probe.why:
        yield ill("samples", f"the labelled windows cannot be used: {probe.why}")


def _sources(facts: Facts) -> Iterator[Check]:
    if not isinstance(facts.config, AgentError):
        for slot, pipeline in facts.config.pipeline.items():
            if pipeline.source is None:
                yield well(f"source:{slot}", "it has none: its model answers requests only")
    for slot, why in facts.sources.items():
        if why:
            yield ill(f"source:{slot}", f"{why}; see [pipeline.{slot}]")
        else:
            yield well(f"source:{slot}", "its samples may come")


def _serve(facts: Facts) -> Iterator[Check]:
    match facts.serve:
        case AgentError() as why:
            yield ill("serve", str(why))
        case str() as said:
            yield well("serve", said)


def _proxy(facts: Facts) -> Check:
    config, held = facts.config, facts.held
    setting = None if isinstance(config, AgentError) else config.link.proxy
    credentials = held.credentials if isinstance(held, Held) else None
    url = credentials.broker_url if isinstance(credentials, Credentials) else ""
    return check_proxies(Proxies(setting, facts.environment), url)


def _brokers(facts: Facts) -> Iterator[Check]:
    wrong = isinstance(facts.held, Held) and clock_is_wrong(facts.held, facts.now_ms)
    yield check_way("broker", facts.broker, clock_is_wrong=wrong)
    match facts.local_broker:
        case None:
            return
        case NotTried(why=why):
            yield ill("local-broker", why)
        case way:
            yield check_way("local-broker", way, clock_is_wrong=wrong)
