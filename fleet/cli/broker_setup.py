"""``fieldfare broker setup``: a hardened mosquitto, tried before it is written."""

from pathlib import Path

import click

from fleet.cli.output import home_option, output_option, show
from fleet.config import FleetConfig


@click.command()
@click.option(
    "--dir",
    "folder",
    type=click.Path(path_type=Path, file_okay=False),
    help="Where to write; the home's own folder otherwise.",
)
@click.option(
    "--tls-cert",
    "certificate",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Certificate chain of the broker (PEM); it is copied.",
)
@click.option(
    "--tls-key",
    "key",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Its key, without a passphrase (PEM); it is copied.",
)
@click.option(
    "--tls-ca",
    "authority",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Whoever signed the certificate, if not the authority that devices believe already.",
)
@click.option(
    "--devices",
    type=click.IntRange(1, 1_000_000),
    help="How many the fleet will have; above 2,000 files keep the accounts.",
)
@click.option(
    "--backend",
    type=click.Choice(["dynsec", "acl_file"]),
    help="Who keeps the accounts; goes by --devices otherwise.",
)
@click.option(
    "--client-certificates",
    "certificates",
    type=click.Choice(["offer", "require"]),
    help="Give every device a TLS certificate of its own; then admit nobody without one.",
)
@output_option
@home_option
def setup(
    folder: Path | None,
    certificate: Path | None,
    key: Path | None,
    authority: Path | None,
    devices: int | None,
    backend: str | None,
    certificates: str | None,
    output: str,
    home: Path,
) -> None:
    """Write the broker's configuration anew, after a broker has been started with it.

    Takes a certificate of your own, and moves the accounts between mosquitto's dynamic
    security and files; no device notices. The manager must be stopped. Nothing is written
    if the broker does not start, or does not hold what it must.
    """
    from fleet.ingest.mosquitto import Backend
    from fleet.service.broker_setup import BrokerWish, set_up_broker
    from fleet.service.client_certificates import ClientCertificates

    config = FleetConfig.load(home)
    made = set_up_broker(
        config,
        BrokerWish(
            folder=folder,
            certificate=certificate,
            key=key,
            authority=authority,
            devices=devices or 0,
            backend=Backend(backend) if backend else None,
            certificates=ClientCertificates(certificates) if certificates else None,
        ),
    )

    def text() -> None:
        for sentence in made.held:
            click.echo(f"tried: {sentence}")
        click.echo(
            f"wrote {made.folder / 'mosquitto.conf'}: {made.accounts} accounts, "
            f"kept by {made.backend}"
            + (f"; client certificates: {made.certificates}" if made.certificates else "")
        )
        if made.folder == config.broker_folder:
            click.echo(
                f"\nnext: stop the broker if it runs\n      fieldfare broker run --home {home}"
            )
        else:
            click.echo(f"\nnext: mosquitto -c {made.folder / 'mosquitto.conf'}")
        if made.warning:
            click.secho(made.warning, fg="yellow", err=True)

    view = {
        "folder": str(made.folder),
        "backend": str(made.backend),
        "accounts": made.accounts,
        "certificates": str(made.certificates) if made.certificates else None,
        "held": made.held,
        "warning": made.warning,
    }
    show(view, output, text)
