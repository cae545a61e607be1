"""Assignments out: from what each device is wanted to run to one signed document for it.

Rule 1: level-triggered: whatever differs from the last signed document is signed anew,
        however it came to differ; a crash between signing and publishing costs nothing.
Rule 2: the order only grows. After a restore from a backup it continues above the
        order that the device itself reports, which is signed by the device.
Rule 3: the signed document is kept before it is published.
"""

from collections.abc import Callable

from agent.contract.messages import Assignment
from fleet.registry.devices import Device, Signed
from fleet.registry.sqlite import Registry

MAX_REPORTED_SEQUENCE = 2**52
"""A device that reports more is lying: no director signs so often, and beyond 2**53 none can."""

RENEW_SHARE = 0.5
"""An assignment is signed again when this share of its life is left."""

SignAssignment = Callable[[Assignment], bytes]


def due(registry: Registry, *, epoch: int, now_ms: int, lifetime_ms: int) -> list[str]:
    """Return the devices that need a new document, each once.

    A document of another director epoch than ``epoch`` is one that devices refuse.
    """
    renew_before_ms = now_ms + int(lifetime_ms * RENEW_SHARE)
    devices = registry.devices
    return list(
        dict.fromkeys(
            [
                *devices.unsigned(),
                *devices.of_another_epoch(epoch),
                *devices.expiring(renew_before_ms),
            ]
        )
    )


def sign_next(
    registry: Registry,
    device: Device,
    *,
    fleet: str,
    epoch: int,
    now_ms: int,
    lifetime_ms: int,
    sign: SignAssignment,
) -> Signed:
    """Sign and keep a device's next assignment; call it inside a transaction."""
    kept = registry.devices.assignment(device.id)
    orders = [0]
    if kept is not None and kept.director_epoch == epoch:
        orders.append(kept.sequence)
    told = device.reported
    if told is not None and told.director_epoch == epoch and told.sequence <= MAX_REPORTED_SEQUENCE:
        orders.append(told.sequence)
    assignment = Assignment(
        device=device.id,
        fleet=fleet,
        director_epoch=epoch,
        sequence=max(orders) + 1,
        slots=registry.devices.desired(device.id),
        issued_ms=now_ms,
        expires_ms=now_ms + lifetime_ms,
    )
    signed = Signed(
        director_epoch=epoch,
        sequence=assignment.sequence,
        payload=sign(assignment),
        slots=assignment.slots,
        expires_ms=assignment.expires_ms,
    )
    registry.devices.keep_assignment(device.id, signed, at_ms=now_ms)
    return signed
