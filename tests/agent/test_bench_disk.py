"""The bench counts what a process writes to its files."""

import subprocess
import sys
from pathlib import Path

from scripts.bench.footprint_disk import watch_writes

PROGRAM = """
import os, sys, time
print("ready", flush=True)
sys.stdin.readline()
with open("grows", "ab", buffering=0) as file:
    for _ in range(3):
        file.write(b"x" * 1000)
        time.sleep(0.05)
with open("small.new", "wb") as file:
    file.write(b"y" * 500)
os.rename("small.new", "small")
sys.stdin.readline()
"""


def test_growth_and_renames_are_counted_once_and_temporary_files_not(tmp_path: Path):
    (tmp_path / "grows").write_bytes(b"before")
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM],
        cwd=tmp_path,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdout.readline()

        def go() -> None:
            assert child.stdin is not None
            child.stdin.write(b"go\n")
            child.stdin.flush()

        written = watch_writes(child.pid, tmp_path, seconds=1.5, begun=go)
        child.stdin.close()
    assert written.file_bytes == 3500
    assert written.durable_writes == 4
    assert written.block_bytes >= 0
