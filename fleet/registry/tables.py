"""The tables of the registry, as one step from each version to the next.

Rule 1: ``STEPS[n]`` leads from version n to n + 1; a step that was released never
        changes again.
"""

import json
from collections.abc import Callable
from typing import Final

from sqlite_utils import Database as Tables

from fleet.registry.tables_learning import add_standings

Step = Callable[[Tables], None]


def _first(tables: Tables) -> None:
    _log(tables)
    _devices(tables)
    _releases(tables)
    _reports(tables)
    _plans(tables)


def _log(tables: Tables) -> None:
    tables["events"].create(
        {"number": int, "kind": str, "subject": str, "body": str, "at_ms": int, "digest": str},
        pk="number",
        not_null={"kind", "subject", "body", "at_ms", "digest"},
        strict=True,
    )
    tables["events"].create_index(["subject", "number"])
    for verb in ("UPDATE", "DELETE"):
        tables.execute(
            f"CREATE TRIGGER events_no_{verb.lower()} BEFORE {verb} ON events "
            "BEGIN SELECT RAISE(ABORT, 'the event log is append-only'); END"
        )
    tables["tokens"].create(
        {
            "key": str,
            "group_name": str,
            "uses": int,
            "expires_ms": int,
            "approval": str,
            "created_ms": int,
        },
        pk="key",
        strict=True,
    )
    tables["token_uses"].create(
        {"token": str, "device": str, "at_ms": int},
        pk=("token", "device"),
        foreign_keys=[("token", "tokens", "key")],
        strict=True,
    )


def _devices(tables: Tables) -> None:
    tables["devices"].create(
        {
            "id": str,
            "key": str,
            "state": str,
            "group_name": str,
            "hardware": str,
            "created_ms": int,
            "enrolled_ms": int,
            "last_seen_ms": int,
            "presence": str,
            "presence_boot": str,
            "presence_epoch": int,
            "inventory": str,
            "inventory_counter": int,
            "inventory_rev": int,
            "reported": str,
            "reported_counter": int,
            "reported_rev": int,
            "quarantined_why": str,
            "unsigned": int,
        },
        pk="id",
        not_null={"key", "state", "group_name", "hardware", "created_ms"},
        defaults={"presence_epoch": 0, "unsigned": 0},
        strict=True,
    )
    tables["devices"].create_index(["key"], unique=True)
    owned = [("device", "devices", "id")]
    tables["boots"].create(
        {"device": str, "boot": str, "counter": int, "regressed": int, "at_ms": int},
        pk=("device", "boot"),
        foreign_keys=owned,
        strict=True,
    )
    tables["desired"].create(
        {"device": str, "slot": str, "target": str, "digest": str, "counter": int},
        pk=("device", "slot"),
        foreign_keys=owned,
        strict=True,
    )
    tables["assignments"].create(
        {
            "device": str,
            "director_epoch": int,
            "sequence": int,
            "payload": bytes,
            "slots": str,
            "expires_ms": int,
        },
        pk="device",
        foreign_keys=owned,
        strict=True,
    )


def _releases(tables: Tables) -> None:
    tables["models"].create(
        {
            "digest": str,
            "target": str,
            "family": str,
            "version": str,
            "slot": str,
            "counter": int,
            "manifest": bytes,
            "added_ms": int,
        },
        pk="digest",
        strict=True,
    )
    tables["models"].create_index(["target"], unique=True)
    tables["models"].create_index(["slot", "counter"], unique=True)


def _reports(tables: Tables) -> None:
    owned = [("device", "devices", "id")]
    tables["report_numbers"].create(
        {
            "device": str,
            "boot": str,
            "counter": int,
            "received": str,
            "skipped": str,
            "up_to": int,
            "accepted": int,
            "duplicates": int,
            "dropped": int,
            "missing": int,
            "at_ms": int,
        },
        pk=("device", "boot"),
        foreign_keys=owned,
        strict=True,
    )
    tables["report_kinds"].create(
        {"device": str, "kind": str, "accepted": int},
        pk=("device", "kind"),
        foreign_keys=owned,
        strict=True,
    )
    tables["windows"].create(
        {
            "device": str,
            "boot": str,
            "slot": str,
            "number": int,
            "release": str,
            "closed_ms": int,
            "at_ms": int,
            "body": str,
        },
        pk=("device", "boot", "slot", "number"),
        foreign_keys=owned,
        strict=True,
    )
    tables["windows"].create_index(["device", "slot", "closed_ms"])
    tables["windows"].create_index(["closed_ms"])
    tables["device_events"].create(
        {
            "device": str,
            "id": str,
            "type": str,
            "release": str,
            "at_ms": int,
            "body": str,
        },
        pk=("device", "id"),
        foreign_keys=owned,
        strict=True,
    )
    tables["device_events"].create_index(["type", "release"])


def _plans(tables: Tables) -> None:
    for table, more in (("rollouts", {"slot": str, "release": str}), ("runs", {})):
        tables[table].create(
            {
                "id": str,
                **more,
                "plan": bytes,
                "state": bytes,
                "status": str,
                "active": int,
                "created_ms": int,
                "changed_ms": int,
            },
            pk="id",
            strict=True,
        )
    of_run = [("run", "runs", "id")]
    tables["run_answers"].create(
        {"run": str, "task": str, "device": str, "payload": bytes, "at_ms": int},
        pk=("run", "task"),
        foreign_keys=of_run,
        strict=True,
    )
    tables["run_blobs"].create(
        {"run": str, "name": str, "payload": bytes, "at_ms": int},
        pk=("run", "name"),
        foreign_keys=of_run,
        strict=True,
    )


def _second(tables: Tables) -> None:
    """Enrolment nonces survive a restart; what is old can be found and removed."""
    tables["enrol_nonces"].create(
        {"nonce": str, "device": str, "answered": int, "at_ms": int},
        pk="nonce",
        not_null={"device", "answered", "at_ms"},
        foreign_keys=[("device", "devices", "id")],
        strict=True,
    )
    tables["enrol_nonces"].create_index(["device", "answered"])
    tables["windows"].create_index(["at_ms"])
    tables["device_events"].create_index(["type", "at_ms"])


def _third(tables: Tables) -> None:
    """A token may be for listed devices only."""
    tables["token_devices"].create(
        {"token": str, "device": str},
        pk=("token", "device"),
        foreign_keys=[("token", "tokens", "key")],
        strict=True,
    )


def _fourth(tables: Tables) -> None:
    """One outcome writes one row; what is archived of the log may leave it; spools may end."""
    _rollouts_by_device(tables)
    tables["run_steps"].create(
        {"run": str, "number": int, "event": str},
        pk=("run", "number"),
        foreign_keys=[("run", "runs", "id")],
        strict=True,
    )
    tables.execute(
        "INSERT INTO run_steps (run, number, event) "
        "SELECT subject, number, json_extract(body, '$.event') FROM events WHERE kind = 'run.step'"
    )
    tables["run_answers"].drop()
    tables["event_archives"].create(
        {
            "first": int,
            "last": int,
            "before": str,
            "digest": str,
            "name": str,
            "sha256": str,
            "at_ms": int,
        },
        pk="last",
        not_null={"first", "before", "digest", "name", "sha256", "at_ms"},
        strict=True,
    )
    tables.execute("DROP TRIGGER events_no_delete")
    tables.execute(
        "CREATE TRIGGER events_no_delete BEFORE DELETE ON events "
        "WHEN OLD.number > coalesce((SELECT max(last) FROM event_archives), 0) "
        "BEGIN SELECT RAISE(ABORT, 'the event log is append-only'); END"
    )
    for verb in ("UPDATE", "DELETE"):
        tables.execute(
            f"CREATE TRIGGER event_archives_no_{verb.lower()} BEFORE {verb} ON event_archives "
            "BEGIN SELECT RAISE(ABORT, 'the list of archives is append-only'); END"
        )


def _rollouts_by_device(tables: Tables) -> None:
    for column, kind in (("phase", "TEXT"), ("wave", "INTEGER"), ("revision", "INTEGER")):
        tables.execute(f"ALTER TABLE rollouts ADD COLUMN {column} {kind} NOT NULL DEFAULT 0")
    tables["rollout_members"].create(
        {"rollout": str, "device": str, "place": int, "member": str},
        pk=("rollout", "device"),
        not_null={"place", "member"},
        foreign_keys=[("rollout", "rollouts", "id")],
        strict=True,
    )
    for rollout, state in tables.execute("SELECT id, state FROM rollouts").fetchall():
        kept = json.loads(state)
        tables.execute(
            "UPDATE rollouts SET phase = ?, wave = ? WHERE id = ?",
            (json.dumps(kept["phase"]), kept["wave"], rollout),
        )
        tables.conn.executemany(
            "INSERT INTO rollout_members (rollout, place, device, member) VALUES (?, ?, ?, ?)",
            [
                (rollout, place, device, json.dumps(member))
                for place, (device, member) in enumerate(kept["members"].items())
            ],
        )
    tables.execute("ALTER TABLE rollouts DROP COLUMN state")


def _fifth(tables: Tables) -> None:
    """How often releases were right in the field, where people said so."""
    tables["field_labels"].create(
        {"device": str, "release": str, "labelled": int, "right_answers": int, "at_ms": int},
        pk=("device", "release"),
        not_null={"labelled", "right_answers", "at_ms"},
        foreign_keys=[("device", "devices", "id"), ("release", "models", "digest")],
        strict=True,
    )
    tables["field_labels"].create_index(["release"])


def _sixth(tables: Tables) -> None:
    """How each machine was when it last said so."""
    tables["machine_health"].create(
        {"device": str, "boot": int, "ts": int, "at_ms": int, "body": str},
        pk="device",
        not_null={"boot", "ts", "at_ms", "body"},
        foreign_keys=[("device", "devices", "id")],
        strict=True,
    )


STEPS: Final[tuple[Step, ...]] = (
    _first,
    _second,
    _third,
    _fourth,
    _fifth,
    _sixth,
    add_standings,
)
