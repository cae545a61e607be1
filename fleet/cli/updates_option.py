"""How the devices of a run send what they learned, as it is said on a command line."""

import re
from typing import Final

import click

_FORMS: Final = re.compile(r"f32|f16|int8|int4|topk:(0\.[0-9]{1,6}|1)")


def _checked(_context: click.Context, _option: click.Parameter, value: str) -> str:
    if _FORMS.fullmatch(value):
        return value
    raise click.BadParameter(
        f"{value!r} is none of f32, f16, int8, int4 and topk:FRACTION, as in topk:0.01"
    )


updates_option = click.option(
    "--updates",
    default="f32",
    show_default=True,
    metavar="FORM",
    callback=_checked,
    help="How devices send what they learned: f32 without loss; f16, int8, int4 or topk:FRACTION "
    "as coarser differences of fewer bytes, what is left out coming with the next round's.",
)
