"""Releases in a store, without a fleet: what ``footprint_swaps.py`` changes between."""

import json
from collections.abc import Sequence
from pathlib import Path

from agent.disk import Disk
from agent.update.store import Store
from fleet.release.build import Placement, build_release
from fleet.service.publication import read_described


def store_releases(folder: Path, models: Sequence[Path], description: Path) -> None:
    """Make a release of each model, of the description given, and a list of them."""
    store, listed = Store(Disk(folder)), []
    for counter, model in enumerate(models, start=1):
        described = read_described(model, description)
        text = described.description
        built = build_release(
            described.model,
            Placement(
                family=text.family,
                version=f"v{counter}",
                slot=described.slot,
                counter=counter,
                windowing=text.windowing,
                classes=text.classes,
                probabilities=text.probabilities,
            ),
            golden_inputs=described.golden_inputs,
            metrics={},
            now_ms=counter,
        )
        for digest, content in {**built.artifacts, built.digest: built.manifest}.items():
            store.put(digest, content)
        target = built.release.target
        listed.append({"target": target, "digest": built.digest, "counter": counter})
    (folder / "releases.json").write_text(json.dumps(listed))
