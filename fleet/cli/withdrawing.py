"""``fieldfare model withdraw`` and ``permit``: a release that should run no more, and ways back."""

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from agent.contract.messages import Assigned
from fleet.cli.client import path_of
from fleet.cli.keyring import parse_span
from fleet.cli.models import model
from fleet.cli.output import client_of
from fleet.cli.proposing import Settle, settles
from fleet.config import FleetConfig
from fleet.errors import ConfigError, RefusedError

if TYPE_CHECKING:
    from fleet.service.withdrawal import Stranded
    from fleet.signing.published import Published

__all__ = ["model"]


@model.command("withdraw")
@click.argument("release")
@settles
def withdraw(release: str, held: "Published", settle: Settle) -> None:
    """Let no device install RELEASE (family/version) any more.

    Devices that run it keep running it, and are listed with the releases that they may
    go back to. Rollouts of it stop; who has not installed it yet is no longer asked. A
    device that has it as its last good release still holds it and may return to it.
    """
    from fleet.signing.permits import propose_withdrawal

    config = _manager(settle)
    before = _preview(config, release)
    if before.withdrawn:
        raise RefusedError(f"{before.release} is withdrawn already")
    _tell(before)
    settle(propose_withdrawal(held, before.target, datetime.now(UTC)))
    if settle.file is None and before.runs_on:
        click.echo(f"\nstill running {before.release}: {', '.join(before.runs_on)}")
        for way in before.ways_back:
            words = " ".join(f"--device {device}" for device in before.runs_on)
            click.echo(f"  take them back: fieldfare rollout create {way} {words} --one-way")


@model.command("permit")
@click.argument("release")
@click.option(
    "--for", "select", default="all", show_default=True, help="Devices that may, as in a rollout."
)
@click.option("--lasts", default="7d", show_default=True, help="How long: 7d, 12h.")
@click.option("--end", is_flag=True, help="End the permits for RELEASE instead.")
@settles
def permit(
    release: str, select: str, lasts: str, end: bool, held: "Published", settle: Settle
) -> None:
    """Let devices go back to the older RELEASE (family/version), signed offline.

    For ways back that the running release does not list itself. Devices believe it with
    the metadata that they fetch when they are assigned RELEASE; the permit expires by
    their trusted time. It forgives nothing but the lower counter.
    """
    from fleet.signing.permits import propose_end, propose_permit

    config, now = _manager(settle), datetime.now(UTC)
    found = _preview(config, release)
    wish = _assigned(found)
    if end:
        settle(propose_end(held, wish, now))
        return
    devices: tuple[str, ...] = ()
    if select != "all":
        with client_of(config) as client:
            devices = client.get(path_of("selections", select), tuple[str, ...])
        if not devices:
            raise RefusedError(f"no device is {select}")
    expires = now + parse_span(lasts)
    settle(propose_permit(held, wish, slot=found.slot, devices=devices, expires=expires, now=now))
    if settle.file is None:
        click.echo(f"next: fieldfare rollout create {found.release} --one-way --select {select}")


def _manager(settle: Settle) -> FleetConfig:
    if settle.config is None:
        raise ConfigError("this needs the running manager: say its --home")
    return settle.config


def _preview(config: FleetConfig, release: str) -> "Stranded":
    from fleet.service.withdrawal import Stranded

    with client_of(config) as client:
        return client.get(path_of("withdrawals", *release.replace(" ", "/").split("/")), Stranded)


def _assigned(found: "Stranded") -> Assigned:
    return Assigned(target=found.target, digest=found.digest, counter=found.counter)


def _tell(before: "Stranded") -> None:
    lines = (
        ("runs on", before.runs_on, "they keep running it"),
        ("asked", before.asked, "they are no longer asked, and run what they run"),
        ("last good of", before.keeps, "it never left them: they may return to it"),
        ("rollouts", before.rollouts, "they stop"),
        ("ways back", before.ways_back, "releases that those who run it may go back to"),
    )
    click.echo(f"{before.release}, {before.digest}")
    for what, names, meaning in lines:
        click.echo(f"  {what:<14}{', '.join(names) or 'none'}{f'; {meaning}' if names else ''}")
