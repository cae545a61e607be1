"""What ``scripts/fuzz`` runs: each parser in a process of its own, then what it found again.

Rule 1: a crash ends the run of its parser; its input and libFuzzer's words are kept and named.
Rule 2: memory is measured by running all inputs of the corpus over and over without
        libFuzzer, which keeps growing tables of its own.
Rule 3: the parsers are imported where they are used, since what is imported while atheris
        watches counts as covered or not.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

NAMES = (
    "envelope",
    "manifest",
    "assignment",
    "metadata",
    "chunk",
    "parcel",
    "sealed",
    "bundle",
    "topic",
    "tensors",
    "model",
)
ROUNDS = 5
MAX_GROWTH_BYTES = 8 * 1024 * 1024


def resident_bytes() -> int:
    """Return the resident memory of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def fuzz(name: str, corpus: Path, seconds: int) -> None:
    """Fuzz one parser; libFuzzer ends the process."""
    import atheris  # noqa: PLC0415  # only this process has it

    with atheris.instrument_imports(include=["agent", "tuf"]):
        from fuzz_parsers import MAX_INPUT_BYTES, PARSERS, refused  # noqa: PLC0415  # rule 3
    parse, seeds = PARSERS[name]()
    for number, seed in enumerate(seeds):
        (corpus / f"seed-{number}").write_bytes(seed)
    atheris.Setup(
        [
            sys.argv[0],
            f"-max_total_time={seconds}",
            f"-max_len={MAX_INPUT_BYTES}",
            "-rss_limit_mb=1024",
            "-timeout=10",
            "-print_final_stats=1",
            f"-artifact_prefix={corpus.parent}/fieldfare-fuzz-{name}-",
            str(corpus),
        ],
        lambda content: refused(lambda: parse(content)),
    )
    atheris.Fuzz()


def replay(name: str, corpus: Path) -> None:
    """Run the corpus over and over, and print how memory moved."""
    from fuzz_parsers import PARSERS, refused  # noqa: PLC0415  # rule 3

    parse, _seeds = PARSERS[name]()
    inputs = [path.read_bytes() for path in sorted(corpus.iterdir())]
    deadline = time.monotonic() + 20

    def round_trip() -> None:
        for content in inputs:
            refused(lambda content=content: parse(content))  # type: ignore[misc]  # bound now

    round_trip()
    round_trip()
    before, rounds = resident_bytes(), 0
    while rounds < ROUNDS and (rounds < 1 or time.monotonic() < deadline):
        round_trip()
        rounds += 1
    after = resident_bytes()
    print(json.dumps({"inputs": len(inputs), "rounds": rounds, "before": before, "after": after}))


def examine(name: str, seconds: int, folder: Path) -> bool:
    """Fuzz one parser and replay what was found; return whether all is well."""
    corpus = folder / name
    corpus.mkdir()
    itself = [sys.executable, str(Path(__file__).resolve())]
    fuzzed = subprocess.run(
        [*itself, "--fuzz", name, "--corpus", str(corpus), "--seconds", str(seconds)],
        capture_output=True, text=True, check=False, errors="replace",
    )  # fmt: skip
    units = [w for w in fuzzed.stderr.splitlines() if "stat::number_of_executed_units" in w]
    executed = units[0].split()[-1] if units else "no"
    if fuzzed.returncode != 0:
        kept = folder.parent / f"fieldfare-fuzz-{name}.log"
        kept.write_text(fuzzed.stderr)
        for crash in folder.glob(f"fieldfare-fuzz-{name}-*"):
            crash.rename(folder.parent / crash.name)
            print(f"  input kept: {folder.parent / crash.name}")
        print(f"  FAILED  {name:<11} after {executed} inputs: see {kept}")
        return False
    again = subprocess.run(
        [*itself, "--replay", name, "--corpus", str(corpus)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    said = json.loads(again.stdout)
    growth = said["after"] - said["before"]
    flat = growth <= MAX_GROWTH_BYTES
    print(
        f"  {'ok    ' if flat else 'FAILED'}  {name:<11} {executed} inputs,"
        f" {said['inputs']} kept; resident memory {said['before'] // 1024} KiB before and"
        f" {said['after'] // 1024} KiB after {said['rounds']} rounds of them",
        flush=True,
    )
    return flat


def main() -> int:
    """Fuzz each parser for its share of the time."""
    line = argparse.ArgumentParser(prog="scripts/fuzz", description="Fuzz every parser.")
    line.add_argument("--seconds", type=int, default=100, help="together (default 100)")
    line.add_argument("--fuzz", choices=NAMES, help=argparse.SUPPRESS)
    line.add_argument("--replay", choices=NAMES, help=argparse.SUPPRESS)
    line.add_argument("--corpus", type=Path, help=argparse.SUPPRESS)
    line.add_argument("parsers", nargs="*", metavar="PARSER", help=", ".join(NAMES))
    said = line.parse_args()
    unknown = set(said.parsers) - set(NAMES)
    if unknown:
        line.error(f"no parser is called {', '.join(sorted(unknown))}")
    if said.fuzz:
        fuzz(said.fuzz, said.corpus, said.seconds)
    if said.replay:
        replay(said.replay, said.corpus)
        return 0
    wanted = said.parsers or list(NAMES)
    share = max(1, said.seconds // len(wanted))
    with tempfile.TemporaryDirectory(prefix="fieldfare-fuzz-") as folder:
        well = [examine(name, share, Path(folder)) for name in wanted]
    print("scripts/fuzz: " + ("no crash, memory flat" if all(well) else "something is wrong"))
    return 0 if all(well) else 1


if __name__ == "__main__":
    raise SystemExit(main())
