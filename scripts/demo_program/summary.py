"""What the demo promises, counted: one JSON for programs, one page for people.

Rule 1: figures come from the manager's registry and the devices' own files, never from
        what the demo believes it did.
Rule 2: every promise that does not hold is named, and makes the demo fail.
"""

import json
import subprocess
from dataclasses import asdict, dataclass

from processes import BIN
from story import ROUNDS, Place, Story

from agent.contract.messages import Quality
from fleet.service.judged_views import CohortView
from fleet.service.views import DeviceView, EvaluationView, ReleaseView, UpdateView

Figures = dict[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Counted:
    """Reports of all devices: what they sent, and what the manager counted."""

    sent: int
    lost: int
    duplicated: int
    resent: int


Views = dict[str, DeviceView]


def count_reports(appended: dict[str, int], before: Views, after: Views) -> Counted:
    """Compare each device's own count with the manager's.

    A report is lost if the device appended it and the manager neither counted it nor was
    told that it was dropped; it is duplicated if more were counted than appended.

    Args:
        appended: Reports that each device appended by one moment.
        before: What the manager had counted by that moment at the latest.
        after: What it had counted when everything had had time to arrive.

    """

    def counted(view: DeviceView) -> int:
        return view.reports_accepted + view.reports_skipped

    return Counted(
        sent=sum(appended.values()),
        lost=sum(max(0, n - counted(after[d])) for d, n in appended.items()),
        duplicated=sum(max(0, counted(before[d]) - n) for d, n in appended.items()),
        resent=sum(view.reports_duplicates_ignored for view in after.values()),
    )


def outbox(place: Place) -> dict[str, int]:
    """Return a device's own totals, read from its state directory."""
    agent, state = str(BIN / "fieldfare-agent"), str(place.state)
    command = [agent, "status", "--state-dir", state, "-o", "json"]
    told = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    return dict(told["outbox"])


def gather(story: Story, counted: Counted, seconds_total: float) -> Figures:
    """Return the summary."""
    views = story.device_views()
    releases = story.ask("/releases", list[ReleaseView]) or []
    updates = story.ask("/updates", list[UpdateView]) or []
    accuracy = _accuracy(story, views)
    people = [p for p in story.places if p.trains]
    stranger = next((p for p in story.places if not p.trains), None)
    run = story.run
    judged = {j.device: j for j in run.judged} if run else {}
    strange = judged.get(stranger.device) if stranger else None
    halted = [r for r in story.rollouts.values() if r.status == "halted"]
    return {
        "devices_total": story.count,
        "devices_enrolled": sum(v.state == "enrolled" for v in views.values()),
        "broker": "embedded" if story.embedded else "mosquitto",
        "isolation_enforced": not story.embedded,
        "releases": [
            {
                "name": r.name,
                "target": r.target,
                "digest": r.digest,
                "bytes": r.size,
                "runs_on": [p.name for p in story.places if p.device in r.runs_on],
                "from_run": r.run,
                "rollouts": {n: v.status for n, v in story.rollouts.items() if v.release == r.name},
            }
            for r in releases
        ],
        "canary_rollbacks": len(halted),
        "canary_rollback_why": [r.why for r in halted],
        "bad_release_outcomes": [
            {"device": u.device, "outcome": u.outcome, "why": u.why}
            for u in updates
            if halted and u.release == halted[0].release
        ],
        "accuracy_before_mean": _mean([accuracy[p.name]["before"] for p in people]),
        "accuracy_after_mean": _mean([accuracy[p.name]["after"] for p in people]),
        "accuracy_per_device": accuracy,
        "accuracy_bystander_before": _share(strange.withheld_before) if strange else None,
        "accuracy_bystander_after": _share(strange.withheld_after) if strange else None,
        "bystander_received": strange.receives if strange else None,
        "cohorts": [_cohort(c) for c in run.cohorts] if run else [],
        "rounds_completed": run.rounds_completed if run else 0,
        "asked": asdict(story.asked) if story.asked else None,
        "reports_sent": counted.sent,
        "reports_lost": counted.lost,
        "reports_duplicated": counted.duplicated,
        "reports_resent_and_ignored": counted.resent,
        "killed": f"{story.kill.part} in stage {story.kill.stage}" if story.kill else None,
        "seconds_total": round(seconds_total, 1),
        "seconds_by_stage": story.seconds,
    }


def broken_promises(figures: Figures) -> list[str]:
    """Return a sentence for each promise that the demo did not keep."""
    before, after = figures["accuracy_before_mean"], figures["accuracy_after_mean"]
    runs = {name for r in figures["releases"] for name in r["runs_on"]}
    bad = figures["releases"][-1]
    promises = (
        (figures["devices_enrolled"] == figures["devices_total"], "not every device enrolled"),
        (len(runs) == figures["devices_total"], "not every device runs a release"),
        (figures["canary_rollbacks"] >= 1, "the bad release was not stopped"),
        (not bad["runs_on"], f"the bad release still runs on {bad['runs_on']}"),
        (figures["rounds_completed"] >= ROUNDS, f"fewer than {ROUNDS} rounds were completed"),
        (after > before, f"mean accuracy did not rise: {before:.3f} before, {after:.3f} after"),
        (
            figures["asked"]["labelled"] == figures["asked"]["windows"],
            "not every answer could be labelled",
        ),
        (figures["reports_lost"] == 0, f"{figures['reports_lost']} reports were lost"),
        (figures["reports_duplicated"] == 0, f"{figures['reports_duplicated']} were counted twice"),
    )
    return [sentence for kept, sentence in promises if not kept]


def page(figures: Figures) -> str:
    """Return the summary for people."""
    lines = [
        "",
        (
            f"Devices    {figures['devices_enrolled']} of {figures['devices_total']} enrolled over "
            f"{figures['broker']}"
        ),
    ]
    if not figures["isolation_enforced"]:
        lines.append("           (the embedded broker does not isolate devices from each other)")
    lines += ["Releases"]
    for release in figures["releases"]:
        verdict = "; ".join(f"rollout {status}" for status in release["rollouts"].values())
        origin = f", made by {release['from_run']}" if release["from_run"] else ""
        where = ", ".join(release["runs_on"]) or "no device"
        lines.append(f"  {release['name']:<10} {verdict}{origin}: runs on {where}")
    lines += [f"  stopped: {why}" for why in figures["canary_rollback_why"]]
    lines += [f"  {u['outcome']}: {u['why']}" for u in figures["bad_release_outcomes"]]
    lines += ["", "Accuracy on withheld windows (they decide nothing)", _accuracy_table(figures)]
    lines += [
        "",
        _asked(figures["asked"]),
        f"Rounds     {figures['rounds_completed']} completed",
        (
            f"Reports    {figures['reports_sent']} sent, {figures['reports_lost']} lost, "
            f"{figures['reports_duplicated']} counted twice "
            f"({figures['reports_resent_and_ignored']} resends ignored)"
        ),
    ]
    if figures["killed"]:
        lines.append(f"Fault      kill -9 of {figures['killed']}")
    times = ", ".join(f"{name} {s:.0f} s" for name, s in figures["seconds_by_stage"].items())
    lines.append(f"Time       {figures['seconds_total']:.0f} s: {times}")
    return "\n".join(lines)


def _asked(asked: dict[str, float]) -> str:
    return (
        f"Asked      the first device answered {asked['windows']} windows over HTTP (Open Inference"
        f" Protocol), {asked['right']} right, {asked['median_us']:.0f} µs each;"
        f" {asked['labelled']} labelled by a person"
    )


def _accuracy_table(figures: Figures) -> str:
    rows = []
    for name, told in figures["accuracy_per_device"].items():
        part = "trained" if told["trained"] else "stranger, took no part"
        kept = "" if told["received"] else ", kept the base release"
        rows.append(
            f"  {name:<18} {told['before']:.3f} → {told['after']:.3f}  "
            f"(n={told['windows']}; {part}{kept})"
        )
    rows.append(
        f"  {'mean of trainers':<18} {figures['accuracy_before_mean']:.3f} → "
        f"{figures['accuracy_after_mean']:.3f}"
    )
    if figures["accuracy_bystander_after"] is not None:
        rows.append(
            "  the candidate on the stranger's windows: "
            f"{figures['accuracy_bystander_before']:.3f} → "
            f"{figures['accuracy_bystander_after']:.3f}"
        )
    rows += [
        f"  {told['cohort']:<18} {told['change']:+.3f} ({told['low']:+.3f} to {told['high']:+.3f}) "
        f"by the candidate, mean of {told['devices']}; worst tenth {told['worst_decile']:+.3f}"
        for told in figures["cohorts"]
    ]
    return "\n".join(rows)


def _cohort(cohort: CohortView) -> dict[str, object]:
    """Return how a cohort changes by the candidate on withheld windows, with its interval."""
    told = {"cohort": cohort.name, "devices": len(cohort.devices), "receives": cohort.receives}
    if cohort.withheld is None:
        return {**told, "change": 0.0, "low": -1.0, "high": 1.0, "worst_decile": 0.0}
    change = cohort.withheld.change
    return {
        **told,
        "change": round(change.mean, 4),
        "low": round(change.low, 4),
        "high": round(change.high, 4),
        "worst_decile": round(cohort.withheld.worst_decile, 4),
    }


def _accuracy(story: Story, views: dict[str, DeviceView]) -> dict[str, dict[str, object]]:
    """Return, for each place, the withheld accuracy of its first and of its present release."""
    told: dict[tuple[str, str], Quality] = {}
    for e in story.ask("/evaluations", list[EvaluationView]) or ():
        if e.withheld:
            told[e.device, e.release] = e.withheld
    base = story.rollouts["base"].release
    promoted = story.rollouts["promote"].release if "promote" in story.rollouts else base
    table = {}
    for place in story.places:
        now = next(s.runs for s in views[place.device].slots)
        before, after = told[place.device, base], told[place.device, now]
        table[place.name] = {
            "before": round(before.accuracy, 4),
            "after": round(after.accuracy, 4),
            "windows": before.windows,
            "trained": place.trains,
            "received": now == promoted,
        }
    return table


def _mean(values: list[float]) -> float:
    return round(sum(values) / len(values), 4)


def _share(quality: Quality | None) -> float | None:
    return round(quality.accuracy, 4) if quality else None
