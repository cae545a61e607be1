"""The demo's own verdict: each promise that is not kept is named, and reports are counted right."""

import sys
from pathlib import Path

import pytest

from fleet.service.views import DeviceView

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts" / "demo_program"))

import summary

KEPT = {
    "devices_total": 3,
    "devices_enrolled": 3,
    "releases": [
        {"runs_on": ["a", "b"]},
        {"runs_on": ["c"]},
        {"runs_on": []},
    ],
    "canary_rollbacks": 1,
    "accuracy_before_mean": 0.7,
    "accuracy_after_mean": 0.8,
    "rounds_completed": summary.ROUNDS,
    "asked": {"windows": 40, "labelled": 40},
    "reports_lost": 0,
    "reports_duplicated": 0,
}


def test_a_demo_that_kept_every_promise_has_broken_none():
    assert summary.broken_promises(KEPT) == []


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"devices_enrolled": 2}, "not every device enrolled"),
        (
            {"releases": [{"runs_on": ["a"]}, {"runs_on": ["b"]}, {"runs_on": []}]},
            "not every device runs a release",
        ),
        ({"canary_rollbacks": 0}, "the bad release was not stopped"),
        (
            {"releases": [{"runs_on": ["a"]}, {"runs_on": ["b"]}, {"runs_on": ["c"]}]},
            "the bad release still runs on ['c']",
        ),
        ({"rounds_completed": summary.ROUNDS - 1}, "rounds were completed"),
        ({"accuracy_after_mean": 0.7}, "mean accuracy did not rise"),
        ({"asked": {"windows": 40, "labelled": 39}}, "not every answer could be labelled"),
        ({"reports_lost": 1}, "1 reports were lost"),
        ({"reports_duplicated": 2}, "2 were counted twice"),
    ],
)
def test_each_promise_that_is_not_kept_is_named_alone(changes, sentence):
    (told,) = summary.broken_promises(KEPT | changes)
    assert sentence in told


def view(accepted: int, *, skipped: int = 0, again: int = 0) -> DeviceView:
    return DeviceView(
        id="d-1", state="enrolled", group="default", hardware="generic-linux", presence="online",
        last_seen_ms=1, agent="", trains=False, evaluates=False, slots=(), quarantined_why=None,
        reports_accepted=accepted, reports_duplicates_ignored=again, reports_skipped=skipped,
        reports_missing=0,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("before", "after", "lost", "duplicated"),
    [
        (view(10), view(10), 0, 0),
        (view(8), view(14), 0, 0),
        (view(8), view(8, skipped=2), 0, 0),
        (view(8), view(9), 1, 0),
        (view(11), view(12), 0, 1),
    ],
)
def test_a_report_is_lost_if_nobody_counted_it_and_twice_if_counted_before_it_was_there(
    before, after, lost, duplicated
):
    told = summary.count_reports({"d-1": 10}, {"d-1": before}, {"d-1": after})
    assert (told.sent, told.lost, told.duplicated) == (10, lost, duplicated)
