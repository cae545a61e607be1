"""The ``fieldfare`` command: groups, common options, and how failures end.

Rule 1: a failure is one sentence on standard error and the exit status of its error.
Rule 2: ``-o json`` prints the view as JSON and nothing else on standard output.
Rule 3: heavy libraries are imported by the command that needs them.
"""

import sys
from collections.abc import Sequence

import click

from agent.errors import AgentError
from fleet.cli import devices, founding, keys, models, rollouts, runs, status
from fleet.cli.client import RefusedByManagerError
from fleet.errors import FleetError

_INTERRUPTED = 130


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="fieldfare")
def fieldfare() -> None:
    """Run, update, watch and teach ML models on devices in the field.

    \b
    A first fleet:  fieldfare init --dev      make keys, metadata and configuration
                    fieldfare broker run      start the broker it configured
                    fieldfare serve           start the manager
                    fieldfare token create    write an enrolment file for devices

    Every command that talks to the manager finds it by --home (or FIELDFARE_HOME).
    """  # noqa: D301 - click wants the control character, not a backslash


for group in (
    founding.init,
    founding.serve,
    founding.broker,
    keys.keys,
    devices.token,
    devices.device,
    models.model,
    rollouts.rollout,
    runs.run,
    status.fleet,
):
    fieldfare.add_command(group)


def main(open_door: founding.OpenDoor, arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit with its status.

    Args:
        open_door: How ``serve`` opens the API.
        arguments: None takes those of this process.

    """
    try:
        fieldfare.main(
            args=list(arguments) if arguments is not None else None,
            standalone_mode=False,
            obj=open_door,
        )
    except click.exceptions.Abort:
        sys.exit(_INTERRUPTED)
    except click.ClickException as why:
        why.show()
        sys.exit(why.exit_code)
    except RefusedByManagerError as why:
        _fail(why.problem.code, str(why), why.problem.exit_status)
    except (FleetError, AgentError) as why:
        _fail(why.code, str(why), why.exit_status)


def _fail(code: str, sentence: str, status: int) -> None:
    click.echo(f"fieldfare: {sentence} [{code}]", err=True)
    sys.exit(status)
