"""``fieldfare token`` and ``fieldfare device``: who belongs to the fleet."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import click
import msgspec

from agent.contract.enrolment import EnrolmentFile
from fleet.cli.client import ManagerClient, path_of
from fleet.cli.device_list import read_device_list
from fleet.cli.machine_lines import behaviour_lines, machine_lines
from fleet.cli.output import ago, moment, show, table, tell, told_right, with_manager
from fleet.cli.standing_lines import print_standing
from fleet.errors import ConfigError, ConflictError
from fleet.service.views import DeviceView, TokenView
from fleet.service.wishes import TokenWish


@click.group()
def token() -> None:
    """Enrolment tokens: how devices join."""


@token.command()
@click.option(
    "--uses",
    type=click.IntRange(1, 100_000),
    show_default="1, or all of --devices",
    help="Devices that may join with it.",
)
@click.option(
    "--devices",
    "listed",
    type=click.Path(path_type=Path, dir_okay=False),
    help="CSV of the only devices that may join with it; see 'fieldfare-agent key -o csv'.",
)
@click.option(
    "--hours",
    type=click.IntRange(1, 365 * 24),
    default=24,
    show_default=True,
    help="How long it is good for.",
)
@click.option("--group", default="default", show_default=True, help="Group its devices join.")
@click.option(
    "--approval",
    type=click.Choice(["auto", "manual"]),
    default="auto",
    show_default=True,
    help="Whether an operator has to approve each device.",
)
@click.option("--wss", is_flag=True, help="For devices that reach the broker over WebSocket only.")
@click.option(
    "--file",
    "path",
    type=click.Path(path_type=Path),
    default=Path("enrolment.json"),
    show_default=True,
    help="Where to write the enrolment file.",
)
@with_manager
def create(
    client: ManagerClient,
    output: str,
    uses: int | None,
    listed: Path | None,
    hours: int,
    group: str,
    approval: str,
    wss: bool,
    path: Path,
) -> None:
    """Write an enrolment file and print the command that a device runs."""
    keys = read_device_list(listed) if listed else ()
    uses = uses or len(keys) or 1
    wish = TokenWish(
        uses=uses,
        lifetime_seconds=hours * 3600,
        group=group,
        approval=approval,
        devices=keys,
        wss=wss,
    )
    with _new_secret(path) as target:
        file = client.post("/tokens", wish, EnrolmentFile)
        target.write(msgspec.json.format(msgspec.json.encode(file), indent=2))

    def text() -> None:
        only = f" of the {len(keys)} in {listed}" if keys else ""
        click.echo(f"wrote {path}: good for {uses} device(s){only} until {moment(file.expires_ms)}")
        click.echo("It holds a secret. Copy it to the device, then run there:\n")
        click.echo(f"  fieldfare-agent enrol {path.name}\n")

    show({"file": str(path), "uses": uses, "expires_ms": file.expires_ms}, output, text)


@token.command("list")
@with_manager
def list_tokens(client: ManagerClient, output: str) -> None:
    """Show every token and who used it."""
    views = client.get("/tokens", list[TokenView])
    rows = [
        (
            v.key[:16],
            v.group,
            f"{len(v.used_by)}/{v.uses}",
            f"{v.listed} listed" if v.listed else "any device",
            v.approval,
            moment(v.expires_ms),
        )
        for v in views
    ]
    headings = ("TOKEN", "GROUP", "USED", "FOR", "APPROVAL", "EXPIRES")
    show(views, output, lambda: table(headings, rows, "no tokens: 'fieldfare token create'"))


@click.group()
def device() -> None:
    """Devices: list, show, approve, readmit, revoke."""


@device.command("list")
@with_manager
def list_devices(client: ManagerClient, output: str) -> None:
    """Show every device and what it runs."""
    views = client.get("/devices", list[DeviceView])
    rows = [
        (v.id, v.state, v.presence, ago(v.last_seen_ms), v.group, v.hardware, _runs(v))
        for v in views
    ]
    headings = ("DEVICE", "STATE", "PRESENCE", "SEEN", "GROUP", "HARDWARE", "RUNS")
    show(views, output, lambda: table(headings, rows, "no devices: 'fieldfare token create'"))


@device.command("show")
@click.argument("device_id")
@with_manager
def show_device(client: ManagerClient, output: str, device_id: str) -> None:
    """Show one device: slots, wishes, denials, its last update and newest alarms."""
    view = client.get(path_of("devices", device_id), DeviceView)
    show(view, output, lambda: print_device(view))


@device.command()
@click.argument("device_id")
@with_manager
def approve(client: ManagerClient, output: str, device_id: str) -> None:
    """Let a pending device in."""
    view = client.post(path_of("devices", device_id, "approve"), None, DeviceView)
    show(view, output, lambda: click.echo(f"{view.id} is {view.state}"))


@device.command()
@click.argument("device_id")
@click.confirmation_option(
    prompt="Its clone was factory-reset or switched off, and only one device has this identity?"
)
@with_manager
def readmit(client: ManagerClient, output: str, device_id: str) -> None:
    """End a device's quarantine, once its clone is gone."""
    view = client.post(path_of("devices", device_id, "readmit"), None, DeviceView)
    show(view, output, lambda: click.echo(f"{view.id} takes part in rollouts and runs again"))


@device.command()
@click.argument("device_id")
@with_manager
def forgive(client: ManagerClient, output: str, device_id: str) -> None:
    """Let a device learn again whose updates were refused too often; its past is forgotten."""
    view = client.post(path_of("devices", device_id, "forgive"), None, DeviceView)
    show(view, output, lambda: click.echo(f"{view.id} may take part in federated runs again"))


@device.command()
@click.argument("device_id")
@click.confirmation_option(prompt="The device can never come back under this identity. Go on?")
@with_manager
def revoke(client: ManagerClient, output: str, device_id: str) -> None:
    """Shut a device out for good."""
    view = client.post(path_of("devices", device_id, "revoke"), None, DeviceView)
    show(view, output, lambda: click.echo(f"{view.id} is {view.state}"))


@contextmanager
def _new_secret(path: Path) -> Iterator[IO[bytes]]:
    """Open a file that only its owner reads; what is not written whole is taken away again."""
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError as why:
        raise ConflictError(f"{path} exists: choose another --file") from why
    except OSError as why:
        raise ConfigError(f"{path} cannot be written: {why.strerror}") from why
    whole = False
    try:
        with os.fdopen(handle, "wb") as target:
            yield target
        whole = True
    except OSError as why:
        raise ConfigError(f"{path} cannot be written: {why.strerror}") from why
    finally:
        if not whole:
            path.unlink(missing_ok=True)


def _runs(view: DeviceView) -> str:
    parts = []
    for slot in view.slots:
        wish = f" → {slot.wanted}" if slot.wanted_digest not in (None, slot.runs_digest) else ""
        parts.append(f"{slot.slot}: {slot.runs or 'nothing'}{wish}")
    return "; ".join(parts) or "-"


def _yes(said: bool) -> str:
    return "yes" if said else "no"


def _print_platform(view: DeviceView) -> None:
    if view.arch:
        python = f", Python {view.python}" if view.python else ""
        tell(f"{'system':<12}{view.system} on {view.arch}{python}")
    for runtime in view.runtimes:
        limits = [
            *([f"opset up to {runtime.opset}"] if runtime.opset is not None else []),
            *([f"IR up to {runtime.ir}"] if runtime.ir is not None else []),
            *([", ".join(runtime.providers)] if runtime.providers else []),
        ]
        named = f"{runtime.name} by {runtime.library}" if runtime.library else runtime.name
        of_it = f" ({'; '.join(limits)})" if limits else ""
        place = f" in runtime.{runtime.worker}" if runtime.worker else ""
        tell(f"{'runtime':<12}{named} {runtime.version}{place}{of_it}")
    if view.cpu_flags:
        tell(f"{'processor':<12}{' '.join(view.cpu_flags)}")
    for found in view.environments if view.apps else ():
        flwr = f", flwr {found.flwr}" if found.flwr else ", the stand-in for flwr"
        tell(f"{'apps':<12}in {found.name}: {found.why or f'Python {found.python}{flwr}'}")


def print_device(view: DeviceView) -> None:
    """Tell everything that is known of one device."""
    for name, value in (
        ("device", view.id),
        ("state", view.state),
        ("presence", f"{view.presence}, seen {ago(view.last_seen_ms)}"),
        ("group", view.group),
        ("hardware", view.hardware),
        ("agent", view.agent or "unknown"),
        (
            "rounds",
            f"trains: {_yes(view.trains)}, evaluates: {_yes(view.evaluates)}",
        ),
    ):
        tell(f"{name:<12}{value}")
    _print_platform(view)
    if view.quarantined_why:
        tell(f"{'QUARANTINED':<12}{view.quarantined_why}")
    if view.learning:
        print_standing(view.learning)
    for slot in view.slots:
        tell(
            f"{'slot ' + slot.slot:<12}runs {slot.runs or 'nothing'}, "
            f"wanted {slot.wanted or 'nothing'}, {slot.phase}"
        )
        for denied in slot.denied:
            tell(f"{'':<12}went back from {denied} and will not try it again")
    if view.last_update:
        last = view.last_update
        why = f": {last.why}" if last.why else ""
        tell(f"{'last update':<12}{last.release} {last.outcome}, {ago(last.at_ms)}{why}")
    for one in view.in_the_field:
        tell(f"{'labelled':<12}{one.release}: {told_right(one.quality)}")
    lines = list(machine_lines(view.health)) if view.health else []
    for slot_view in view.behaviour:
        lines += behaviour_lines(slot_view)
    for heading, text in lines:
        tell(f"{heading:<12}{text}" if len(heading) < 12 else f"{heading} {text}")  # noqa: PLR2004 - its column
    for alarm in reversed(view.alarms):
        tell(f"{'alarm':<12}{ago(alarm.at_ms)}, {alarm.code}: {alarm.why}")
