"""``fieldfare run arrays``: what a run made, as a file."""

import zipfile
from pathlib import Path
from typing import BinaryIO

import click
import numpy as np

from agent.contract.tensors import ArrayRecord, Failure, decode_message
from fleet.cli.client import ManagerClient, path_of
from fleet.cli.output import show, with_manager
from fleet.errors import ConflictError, RefusedError
from fleet.service.run_arrays import ArraysView


@click.command()
@click.argument("run_id")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@with_manager
def arrays(client: ManagerClient, output: str, run_id: str, file: Path) -> None:
    """Write the last arrays of RUN_ID into FILE, in NumPy's .npz.

    They are what the run's strategy returned: the head that 'run promote' makes a release
    of, or the arrays of an app's own model.
    """
    if file.suffix != ".npz":
        raise RefusedError(f"{file} is to be an archive of arrays: give it the ending .npz")
    if file.exists():
        raise ConflictError(f"{file} is there already; name another file")
    view = client.get(path_of("runs", run_id, "arrays"), ArraysView)
    content = decode_message(view.message).content
    record = None if isinstance(content, Failure) else content.get("arrays")
    if not isinstance(record, ArrayRecord):
        raise RefusedError(f"{run_id} holds no arrays")
    beside = file.with_name(f".{file.name}.part")
    try:
        with beside.open("wb") as stream:
            _write(stream, record)
        beside.replace(file)
    except OSError as why:
        beside.unlink(missing_ok=True)
        raise RefusedError(f"{file} cannot be written: {why.strerror}") from why
    told = {name: list(array.shape) for name, array in record.items.items()}

    def text() -> None:
        click.echo(f"wrote {len(told)} arrays of {run_id} to {file}")

    show({"run": run_id, "file": str(file), "arrays": told}, output, text)


def _write(stream: BinaryIO, record: ArrayRecord) -> None:
    """Write an archive as ``numpy.savez`` does, which takes no array of any name."""
    with zipfile.ZipFile(stream, "w") as archive:
        for name, array in record.items.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.save(member, array, allow_pickle=False)
