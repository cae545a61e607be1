"""Fieldfare's main job on this machine: a broker, a manager and six devices, end to end.

A quantised model is signed, delivered over MQTT, verified, proven and run on real sensor
data; improved by federated rounds; rolled out again as a signed release; and a bad
release is stopped at its canary and rolled back.
"""

import argparse
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "demo_program"))

from processes import wait_until
from story import PARTS, STAGES, Kill, Story, play
from summary import broken_promises, count_reports, gather, outbox, page


def main() -> int:
    """Play the demo and return its exit status."""
    wanted = _arguments()
    if wanted.summary and not os.access(Path(wanted.summary).absolute().parent, os.W_OK):
        print(f"--summary {wanted.summary} cannot be written there", file=sys.stderr)
        return 2
    folder = Path(tempfile.mkdtemp(prefix="fieldfare-demo-"))
    began = time.monotonic()
    embedded = wanted.broker == "embedded" or (wanted.broker == "auto" and not _has_mosquitto())
    story = Story(
        folder=folder,
        count=wanted.devices,
        embedded=embedded,
        kill=wanted.kill,
        say=_Progress(began).say,
    )
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    setup = int(os.environ.get("FIELDFARE_SETUP_SECONDS", "0"))
    if setup:
        story.seconds["setup"] = float(setup)
    status = 1
    try:
        play(story)
        figures = _finish(story, began, setup, keep=wanted.keep)
        print(page(figures))
        if wanted.summary:
            Path(wanted.summary).write_text(json.dumps(figures, indent=2) + "\n")
        broken = broken_promises(figures)
        for sentence in broken:
            print(f"PROMISE BROKEN: {sentence}", file=sys.stderr)
        status = 1 if broken else 0
        print("\nEverything that the demo promises holds." if not broken else "")
        if wanted.keep:
            _keep(story)
    except (TimeoutError, KeyError, StopIteration) as why:
        print(f"\ndemo failed: {why}", file=sys.stderr)
    except KeyboardInterrupt:
        print("\nstopped", file=sys.stderr)
        status = 130
    except SystemExit:
        status = 143
    finally:
        for ignored in (signal.SIGINT, signal.SIGTERM):  # nothing is left behind half-way
            signal.signal(ignored, signal.SIG_IGN)
        story.cast.stop()
        if status == 1:
            print(f"logs and state are in {folder}", file=sys.stderr)
        else:
            shutil.rmtree(folder, ignore_errors=True)
    return status


def _finish(story: Story, began: float, setup: int, *, keep: bool) -> dict[str, object]:
    """Let every report arrive, then count. Devices are stopped first, unless they stay."""
    story.say("letting every report arrive and counting them")
    began_counting = time.monotonic()
    before = story.device_views()
    appended = _appended(story)
    # A newer report than these proves that the device is connected now and has caught up.
    _let_arrive(story, {device: n + 1 for device, n in appended.items()})
    if not keep:
        story.cast.stop([p.name for p in story.places])
        for place in story.places:
            del story.cast.processes[place.name]
        appended = _appended(story)
        _let_arrive(story, appended)
    after = story.device_views()
    # Where nobody reports any more, everything that was counted must have been appended.
    counted = count_reports(appended, before if keep else after, after)
    story.seconds["count"] = round(time.monotonic() - began_counting, 1)
    return gather(story, counted, time.monotonic() - began + setup)


def _appended(story: Story) -> dict[str, int]:
    return {place.device: outbox(place)["appended"] for place in story.places}


def _let_arrive(story: Story, appended: dict[str, int]) -> None:
    def arrived() -> bool:
        views = story.device_views()
        return all(
            views[d].reports_accepted + views[d].reports_skipped >= n for d, n in appended.items()
        )

    try:
        wait_until(arrived, "the last reports", seconds=20, cast=story.cast)
    except TimeoutError as why:
        print(f"\n{why}", file=sys.stderr)


def _keep(story: Story) -> None:
    home = story.home
    print(
        f"\nStill running. Look around:\n"
        f"  export FIELDFARE_HOME={home}\n"
        f"  .venv/bin/fieldfare device list\n"
        f"  .venv/bin/fieldfare rollout list\n"
        f"  .venv/bin/fieldfare run show {story.run.id if story.run else 'run-1'}\n"
        f"  .venv/bin/fieldfare fleet evaluations\n"
        f"Logs and state are in {story.folder}. Ctrl-C ends everything."
    )
    try:
        signal.pause()
    except KeyboardInterrupt:
        print("\nending")


class _Progress:
    """Says what is happening: one line that is overwritten on a terminal, lines elsewhere."""

    def __init__(self, began: float) -> None:
        self._began = began
        self._last = ""
        self._terminal = sys.stdout.isatty()

    def say(self, words: str) -> None:
        """Show words that differ from the last ones."""
        if words == self._last:
            return
        self._last = words
        print(f"[{time.monotonic() - self._began:6.1f} s] {words}", flush=True)


def _has_mosquitto() -> bool:
    return shutil.which("mosquitto", path=os.environ.get("PATH", "") + ":/usr/sbin") is not None


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/demo", description=__doc__)
    parser.add_argument("--summary", metavar="FILE", help="also write the summary as JSON")
    parser.add_argument(
        "--devices", type=_count, default=6, metavar="N", help="how many devices (default 6)"
    )
    parser.add_argument("--keep", action="store_true", help="leave it running to look around")
    parser.add_argument(
        "--broker", choices=["auto", "mosquitto", "embedded"], default="auto",
        help="auto takes mosquitto where it is installed",
    )  # fmt: skip
    parser.add_argument(
        "--kill", type=_kill, metavar="PART@STAGE",
        help=f"kill -9 a part ({', '.join(PARTS)}) in a stage ({', '.join(STAGES)}) and restart it",
    )  # fmt: skip
    return parser.parse_args()


def _count(text: str) -> int:
    if not text.isdigit() or not 2 <= int(text) <= 64:  # noqa: PLR2004
        raise argparse.ArgumentTypeError("a number from 2 to 64")
    return int(text)


def _kill(text: str) -> Kill:
    part, _, stage = text.partition("@")
    if part not in PARTS or stage not in STAGES:
        raise argparse.ArgumentTypeError(f"{' | '.join(PARTS)}@{' | '.join(STAGES)}")
    return Kill(part, stage)


if __name__ == "__main__":
    sys.exit(main())
