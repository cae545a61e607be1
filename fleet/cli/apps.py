"""``fieldfare run app``: the device side of Flower apps, signed and put into force.

Rule 1: an app is signed here, where its owner's key is; the manager gets what was signed.
"""

from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fleet.cli.client import ManagerClient
from fleet.cli.keyring import ADDRESS_HELP, open_signers, passphrase_option
from fleet.cli.output import client_of, home_option, output_option, show, table, tell, with_manager
from fleet.config import FleetConfig
from fleet.errors import ConfigError
from fleet.service.app_views import AppPublication, AppView
from fleet.service.views import TargetsView

if TYPE_CHECKING:
    from collections.abc import Sequence

    from securesystemslib.signer import Signer

    from agent.contract.app_bundle import AppBundle


@click.group()
def app() -> None:
    """Flower apps that devices may run: publish, list."""


@app.command()
@click.argument("folder", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--name", help="How it is called; default: the project's name.")
@click.option(
    "--key",
    multiple=True,
    help=f"Its owner's key: {ADDRESS_HELP}; repeatable. A development fleet makes its own.",
)
@click.option("--dry-run", is_flag=True, help="Tell what would be signed, and sign nothing.")
@passphrase_option
@home_option
@output_option
def publish(
    folder: Path,
    name: str | None,
    key: tuple[str, ...],
    dry_run: bool,
    passphrase_file: Path | None,
    home: Path,
    output: str,
) -> None:
    """Sign the Flower app in FOLDER for devices, and put it into force.

    Its pyproject.toml names the parts under [tool.flwr.app.components] and its
    dependencies. Devices never install one: they run the app only where they have all of
    them. Source and settings are taken, at most 256 files and 1 MiB; a link is refused.
    The same content is published once. Devices fetch it when a run asks for it, and run it
    where [learn] apps = true.
    """
    from fleet.service.app_folder import read_app

    bundle = read_app(folder, name)
    if dry_run:
        show(bundle, output, lambda: _tell_bundle(bundle))
        return
    config = FleetConfig.load(home)
    with client_of(config) as client:
        view = _publish(config, client, bundle, open_signers(key, passphrase_file, dev=config.dev))

    def text() -> None:
        click.echo(f"{view.name}/{view.number} is in force ({len(view.files)} files)")
        click.echo(f"  digest {view.digest}")
        click.echo(f"  next: fieldfare run start SLOT --client-app {view.name}")

    show(view, output, text)


@app.command("list")
@with_manager
def list_apps(client: ManagerClient, output: str) -> None:
    """Show every app in force."""
    views = client.get("/apps", list[AppView])
    rows = [
        (f"{v.name}/{v.number}", v.version, v.client, v.server or "-", ", ".join(v.dependencies))
        for v in views
    ]
    headings = ("APP", "VERSION", "CLIENT", "SERVER", "DEPENDENCIES")
    show(views, output, lambda: table(headings, rows, "no apps: 'fieldfare run app publish'"))


def _publish(
    config: FleetConfig, client: ManagerClient, bundle: "AppBundle", signers: "Sequence[Signer]"
) -> AppView:
    from agent.contract.app_bundle import encode_bundle
    from fleet.signing.app_key import InForce, delegate_in_dev, dev_owner, sign_app
    from fleet.signing.ceremony import load_targets_keys

    if not signers and not config.dev:
        raise ConfigError("say --key: this manager holds no key that can sign an app")
    content = encode_bundle(bundle)
    known = [v for v in client.get("/apps", list[AppView]) if v.name == bundle.name]
    same = [v for v in known if v.digest == sha256(content).hexdigest()]
    if same:
        return same[-1]
    view = client.get("/targets", TargetsView)
    held = InForce(
        root=view.root, targets=view.targets, delegated=view.delegated, versions=view.versions
    )
    now, roles = datetime.now(UTC), {}
    if not signers:
        owner = dev_owner(config.keys)
        targets_keys = load_targets_keys(config.keys, "", dev=True)[:1]
        targets = delegate_in_dev(bundle.name, held, owner, targets_keys, now=now)
        signers = (owner,)
        if targets is not None:
            roles["targets"] = targets
            held = InForce(
                root=held.root, targets=targets, delegated=held.delegated, versions=held.versions
            )
    number = max((v.number for v in known), default=0) + 1
    target = f"apps/{bundle.name}/{number}.json"
    roles |= sign_app(bundle.name, {target: content}, held, signers, now=now)
    return client.post("/apps", AppPublication(bundle=content, target=target, roles=roles), AppView)


def _tell_bundle(bundle: "AppBundle") -> None:
    tell(f"{bundle.name} {bundle.version}: {bundle.client}")
    for name, content in bundle.files.items():
        tell(f"  {name} ({len(content)} bytes)")
    tell(f"  needs {', '.join(bundle.dependencies) or 'nothing'}")
