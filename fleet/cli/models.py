"""``fieldfare model``: from a file to a signed release."""

from pathlib import Path

import click

from fleet.cli.client import ManagerClient, path_of
from fleet.cli.keyring import open_signers, passphrase_option
from fleet.cli.output import (
    ago,
    client_of,
    home_option,
    output_option,
    show,
    table,
    tell,
    told_right,
    with_manager,
)
from fleet.cli.publishing import encrypt_option, publish_described, publish_signed, variant_option
from fleet.config import FleetConfig
from fleet.service.views import ReleaseView, VariantView


@click.group()
def model() -> None:
    """Releases: sign, publish, bundle, list, show, permit, withdraw."""


@model.command(short_help="Check, sign and publish model FILES.")
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--description",
    type=click.Path(path_type=Path),
    help="TOML or JSON that describes the model; default: the file beside it.",
)
@variant_option
@click.option("--version", help="Name within the family; default: v and the counter.")
@click.option(
    "--key",
    multiple=True,
    help="Signs: file:PATH or command:PROGRAM ARG…; repeatable. A development fleet takes "
    "its own targets key.",
)
@encrypt_option
@passphrase_option
@home_option
@output_option
def publish(
    files: tuple[Path, ...],
    description: Path | None,
    variants: tuple[Path, ...],
    version: str | None,
    key: tuple[str, ...],
    encrypt: bool | None,
    passphrase_file: Path | None,
    home: Path,
    output: str,
) -> None:
    """Admit model FILES, make golden vectors, sign the releases and publish them.

    A model is an ONNX or a TensorFlow Lite file. Its format is checked without running it,
    then the device's own runtime makes golden vectors, which each --variant has to
    reproduce, and the release is signed with an offline targets key, or with the owner's
    where the family is delegated. A folder that 'model sign' made elsewhere is published
    as it is. Beside each file stands its description (motion.onnx: motion.toml or
    motion.json) with family, slot, classes, probabilities, golden_inputs, golden_tolerance,
    metrics, states, [[accelerators]] and [windowing]. A recurrent model keeps its state on
    the device with states = { h_in = "h_out" }: an output that is the next input, from
    zeros on.
    """
    from fleet.service.publication import read_described

    if variants and len(files) != 1:
        raise click.UsageError("--variant belongs to one FILE: publish the others on their own")
    config = FleetConfig.load(home)
    views: list[ReleaseView] = []
    with client_of(config) as client:
        signers = open_signers(key, passphrase_file, dev=config.dev)
        for file in files:
            if file.is_dir():
                views.append(publish_signed(client, file))
                continue
            described = read_described(file, description, variants)
            views.append(
                publish_described(config, client, described, version, signers, encrypt=encrypt)
            )

    def text() -> None:
        for view in views:
            how = ", encrypted" if view.encrypted else ""
            click.echo(f"published {view.name} ({view.size} bytes, counter {view.counter}{how})")
            click.echo(f"  digest {view.digest}")
            click.echo(f"  next: fieldfare rollout create {view.family}/{view.version}")

    show(views, output, text)


@model.command("list")
@with_manager
def list_models(client: ManagerClient, output: str) -> None:
    """Show every release and where it runs."""
    views = client.get("/releases", list[ReleaseView])
    rows = [
        (
            f"{v.name} (withdrawn)" if v.withdrawn else v.name,
            v.slot,
            v.counter,
            ago(v.created_ms),
            v.size,
            len(v.runs_on),
            v.run or "-",
        )
        for v in views
    ]
    headings = ("RELEASE", "SLOT", "COUNTER", "MADE", "BYTES", "DEVICES", "FROM RUN")
    show(views, output, lambda: table(headings, rows, "no releases: 'fieldfare model publish'"))


@model.command("show")
@click.argument("release")
@with_manager
def show_model(client: ManagerClient, output: str, release: str) -> None:
    """Show one RELEASE (family/version): digest, lineage, metrics, devices."""
    view = client.get(path_of("releases", *release.replace(" ", "/").split("/")), ReleaseView)

    def text() -> None:
        lines: list[tuple[str, object]] = [
            ("release", view.name),
            ("target", view.target),
            ("digest", view.digest),
            ("slot", f"{view.slot}, counter {view.counter}"),
            ("bytes", view.size),
            ("encrypted", "yes" if view.encrypted else "no"),
            ("parents", ", ".join(view.parents) or "none"),
            ("made by", f"run {view.run}, {view.rounds} rounds" if view.run else "a publisher"),
            ("runs on", ", ".join(view.runs_on) or "no device"),
        ]
        lines += [(name, f"{value:.4g}") for name, value in sorted(view.metrics.items())]
        lines += [
            ("labelled", f"{device}: {told_right(quality)}")
            for device, quality in view.in_the_field.items()
        ]
        lines += [("variant", _variant(v)) for v in view.variants]
        for name, value in lines:
            tell(f"{name:<12}{value}")

    show(view, output, text)


def _variant(view: VariantView) -> str:
    where = f", for {', '.join(view.hardware)}" if view.hardware else ""
    return f"{view.name}: {view.runtime}, {view.size} bytes, {', '.join(view.providers)}{where}"
