"""The tables of how devices stand in learning: step seven of ``registry.tables``."""

from sqlite_utils import Database as Tables


def add_standings(tables: Tables) -> None:
    """Each device's faded counts of updates, and which rounds were counted."""
    tables["learning_standings"].create(
        {
            "device": str,
            "accepted": float,
            "refused": float,
            "refusal": str,
            "left_out_why": str,
            "at_ms": int,
        },
        pk="device",
        not_null={"accepted", "refused", "refusal", "at_ms"},
        foreign_keys=[("device", "devices", "id")],
        strict=True,
    )
    tables["learning_counted"].create(
        {"run": str, "sends": int},
        pk="run",
        not_null={"sends"},
        foreign_keys=[("run", "runs", "id")],
        strict=True,
    )
