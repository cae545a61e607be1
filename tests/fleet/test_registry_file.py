"""The registry as a file: versions, damage, transactions, and the frozen file of version 1."""

import shutil
import sqlite3
import threading
from pathlib import Path

import pytest

from agent.contract.envelope import Boot
from agent.contract.messages import Quality
from fleet.errors import ConflictError, NewerStateError, NotFoundError, RegistryError
from fleet.registry import schema
from fleet.registry.database import Database
from fleet.registry.sqlite import open_registry
from fleet.rollout import journal
from tests.small_fleet import NOW, add_device, device_id, new_registry

FROZEN = Path(__file__).parents[1] / "fixtures"


@pytest.mark.parametrize("version", [1, 2, 3, 4, 5, 6, 7])
def test_the_frozen_registry_of_each_version_is_read_for_ever(tmp_path, version):
    path = tmp_path / "registry.db"
    shutil.copy(FROZEN / f"registry-v{version}.db", path)
    assert schema.version_of(path) == version

    registry = open_registry(path, create=False)

    registry.events.verify_chain()
    assert [(d.id, d.state, d.presence) for d in registry.devices.listing()] == [
        ("d-0000", "enrolled", "online"),
        ("d-0001", "enrolled", None),
        ("d-0002", "revoked", None),
    ]
    device = registry.devices.require("d-0000")
    assert device.presence_boot == Boot(1, "00ff00ff00ff00ff")
    assert device.inventory is not None
    assert device.inventory.memory_bytes == 4 * 10**9
    assert [p.release.target for p in registry.models.listing()] == [
        "models/motion/01.json",
        "models/motion/02.json",
    ]
    signed = registry.devices.assignment("d-0000")
    assert signed is not None
    assert (signed.sequence, signed.payload, registry.devices.unsigned()) == (3, b"{}", ["d-0001"])
    totals = registry.reports.totals()
    assert (totals.accepted, totals.duplicates_ignored, totals.skipped) == (3, 1, 2)
    assert [w.window.number for w in registry.reports.windows("d-0000")] == [1, 2]
    assert registry.reports.updates()[0].event.outcome == "succeeded"
    assert registry.tokens.listing()[0].used_by == ("d-0000",)
    assert journal.load(registry, "rollout-1") == journal.replay(registry, "rollout-1")
    state = journal.load(registry, "rollout-1")
    assert (state.status, state.members["d-0000"].standing) == ("soaking", "succeeded")
    assert registry.runs.journal("run-1") == ([] if version < 4 else [b'{"type":"Stopped"}'])
    assert registry.runs.blob("run-1", "weights") == b"weights"
    assert schema.version_of(path) == len(schema.STEPS)
    (token,) = registry.tokens.listing()
    assert token.listed == (2 if version >= 3 else 0)
    assert registry.tokens.invites(token.key, "d-0000")
    assert registry.tokens.invites(token.key, "d-0001") == (version < 3)
    answered = [registry.tokens.is_answered(nonce * 16) for nonce in ("ab", "cd", "ef")]
    assert answered == [version >= 2, False, False]
    registry.tokens.open_nonce("ef" * 16, "d-0000", at_ms=NOW)
    assert registry.tokens.is_answered("cd" * 16) == (version >= 2)
    labels = list(registry.reports.labels.of_device("d-0000").values())
    assert labels == ([Quality(right=30, windows=40)] if version >= 5 else [])
    health = registry.machines.of_device("d-0000")
    assert (health.celsius if health else None) == ({"cpu-thermal": 61.4} if version >= 6 else None)
    assert (list(registry.standings.left_out()), registry.standings.counted("run-1")) == (
        (["d-0001"], 3) if version >= 7 else ([], 0)
    )


def test_a_registry_of_a_newer_version_is_refused_untouched(tmp_path):
    registry = new_registry(tmp_path)
    registry.close()
    with sqlite3.connect(registry.path) as connection:
        connection.execute("UPDATE registry_schema SET version = 99")
    connection.close()
    before = registry.path.read_bytes()

    with pytest.raises(NewerStateError, match="has schema version 99, this program knows"):
        open_registry(registry.path, create=False)

    assert registry.path.read_bytes() == before


@pytest.mark.parametrize(
    "content", [b"x" * 5000, b"SQLite format 3\0" + b"\xff" * 4080], ids=["text", "torn header"]
)
def test_a_file_that_is_no_registry_is_refused(tmp_path, content):
    path = tmp_path / "registry.db"
    path.write_bytes(content)

    with pytest.raises(RegistryError, match="is not a Fieldfare registry"):
        open_registry(path, create=False)

    assert path.read_bytes() == content


def test_the_database_of_another_program_is_refused(tmp_path):
    path = tmp_path / "registry.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE recipes (name)")
    connection.close()

    with pytest.raises(RegistryError, match="but not a Fieldfare registry"):
        open_registry(path, create=True)


def test_a_registry_is_made_once_and_only_when_asked(tmp_path):
    with pytest.raises(NotFoundError, match="fieldfare init"):
        open_registry(tmp_path / "registry.db", create=False)
    assert list(tmp_path.iterdir()) == []
    path = new_registry(tmp_path).path
    assert path.stat().st_mode & 0o077 == 0

    with pytest.raises(ConflictError, match="already"):
        open_registry(path, create=True)


def test_a_crash_while_it_was_made_does_not_stop_the_next_try(tmp_path):
    (tmp_path / "registry.db").touch()

    new_registry(tmp_path, 1)


def test_a_migration_that_fails_leaves_the_old_version_whole(tmp_path):
    registry = new_registry(tmp_path, 1)
    registry.close()

    def later(tables):
        tables["devices"].add_column("shoe_size", int)

    def torn(tables):
        tables["devices"].drop()
        raise RegistryError("the power fails")

    now = len(schema.STEPS)
    database = Database(registry.path)
    with pytest.raises(RegistryError, match="power"):
        schema.migrate(database, now, (*schema.STEPS, later, torn))
    assert schema.version_of(registry.path) == now
    assert database.rows("SELECT id FROM devices")[0]["id"] == device_id(0)

    schema.migrate(database, now, (*schema.STEPS, later))
    assert schema.version_of(registry.path) == now + 1
    assert database.row("SELECT shoe_size FROM devices")["shoe_size"] is None
    database.close()


def test_a_transaction_is_all_or_nothing_and_never_nested(tmp_path):
    registry = new_registry(tmp_path)

    def interrupted():
        with registry.transaction():
            add_device(registry, 1)
            assert registry.devices.find(device_id(1)) is not None
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert registry.devices.listing() == []
    assert registry.events.head()[0] == 0

    with registry.transaction():
        add_device(registry, 2)
        with pytest.raises(RegistryError, match="open already"), registry.transaction():
            pass
        with registry.joined():
            add_device(registry, 3)
    assert len(registry.devices.listing()) == 2


def test_another_thread_is_refused(tmp_path):
    registry = new_registry(tmp_path)
    refused: list[RegistryError] = []

    def meddle():
        try:
            registry.devices.listing()
        except RegistryError as why:
            refused.append(why)

    thread = threading.Thread(target=meddle)
    thread.start()
    thread.join()

    assert "thread" in str(refused[0])


def test_a_row_of_an_unknown_device_is_refused(tmp_path):
    registry = new_registry(tmp_path)

    with pytest.raises(RegistryError, match="FOREIGN KEY"):
        registry.reports.accept("d-nobody", Boot(1, "0" * 16), 1, "telemetry", at_ms=NOW)


def test_a_full_disk_is_said_and_nothing_is_half_written(tmp_path):
    registry = new_registry(tmp_path, 1)
    pages = registry._database.row("PRAGMA page_count")[0]
    registry._database.row(f"PRAGMA max_page_count={pages}")

    def fill():
        for number in range(10_000):
            with registry.transaction():
                registry.reports.accept(device_id(0), Boot(1, "0" * 16), number + 1, "x", at_ms=NOW)
                registry.events.record("filler", "s", {"text": "x" * 1000}, at_ms=NOW)

    with pytest.raises(RegistryError, match="full"):
        fill()

    fillers = registry.events.read(kinds=("filler",))
    assert registry.reports.totals().accepted == len(fillers)
    registry.events.verify_chain()


def test_what_a_transaction_committed_is_on_the_medium(tmp_path):
    registry = new_registry(tmp_path)
    asked = ("PRAGMA journal_mode", "PRAGMA synchronous", "PRAGMA foreign_keys")
    said = [registry._database.rows(pragma)[0][0] for pragma in asked]
    assert said == ["wal", 2, 1]  # 2 is FULL: the log is synced at every commit
    registry.close()
