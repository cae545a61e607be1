"""The same model file for other execution providers: one variant for each, before the plain one.

Rule 1: a device takes the first variant that it can run, so the fastest stand first and the
        one that runs everywhere last.
Rule 2: every variant has to reproduce the golden vectors that the plain one made; the device
        finds out, for a publisher seldom has the hardware.
"""

from collections.abc import Sequence
from typing import Annotated

from msgspec import Meta, Struct, field
from msgspec.structs import replace

from agent.contract.manifest import Label, Name, Option, Release, Variant


class Accelerator(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[[accelerators]]`` of a description.

    Attributes:
        name: Of the variant.
        providers: In order of preference, as ONNX Runtime names them.
        hardware: Names a device must have one of; empty fits every device.
        options: By provider; no value may name a path.

    """

    name: Name
    providers: Annotated[tuple[Label, ...], Meta(min_length=1, max_length=16)]
    hardware: Annotated[tuple[Name, ...], Meta(max_length=64)] = ()
    options: dict[Label, dict[Label, str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        foreign = sorted(self.options.keys() - set(self.providers))
        if foreign:
            raise ValueError(f"accelerator {self.name} has options of {foreign[0]} and not it")


def accelerated(plain: Variant, wanted: Sequence[Accelerator]) -> tuple[Variant, ...]:
    """Return the variants of a model, the plain one last."""
    before = tuple(
        replace(
            plain,
            name=each.name,
            providers=each.providers,
            hardware=each.hardware,
            options=tuple(
                Option(provider=provider, name=name, value=value)
                for provider, options in each.options.items()
                for name, value in options.items()
            ),
        )
        for each in wanted
    )
    return (*before, plain)


def accelerators_of(release: Release) -> tuple[Accelerator, ...]:
    """Return what stood in the description of a release, for one that grew from it."""
    plain = [v for v in release.variants if v.model == release.variants[0].model][-1]
    return tuple(
        Accelerator(
            name=variant.name,
            providers=variant.providers,
            hardware=variant.hardware,
            options=variant.options_by_provider,
        )
        for variant in release.variants
        if variant is not plain and variant.model == plain.model
    )
