"""What tests measured is said at the end of every run, of a quiet or parallel one too.

A test says it with ``record_property("measured", "one line")``. Operations at which the power
was cut are added up by area over all tests of the run (``tests/power_cuts.py``), and so are
the steps of a federated run at which a part was killed (``tests/killed_rounds.py``).
"""

from collections import Counter

import pytest

from tests.power_cuts import AREAS

collect_ignore = ["apps"]
"""Flower apps that tests bring along: their imports are their own environments'."""


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reports = [r for group in terminalreporter.stats.values() for r in group]
    said = [
        (name, value)
        for report in reports
        if getattr(report, "when", "") == "call"
        for name, value in report.user_properties
    ]
    told = sorted(str(line) for name, line in said if name == "measured")
    cuts: Counter[str] = Counter()
    for name, counted in said:
        if name == "cuts":
            cuts.update(counted)
    if cuts:
        by_area = ", ".join(f"{area} {cuts[area]}" for area in AREAS if cuts[area])
        told.append(f"power cut points by area: {by_area}; {cuts.total()} in all")
    kills: Counter[str] = Counter()
    for name, counted in said:
        if name == "kills":
            kills.update(counted)
    if kills:
        by_part = ", ".join(f"{part} {kills[part]}" for part in sorted(kills))
        told.append(f"kill -9 in federated runs: {by_part}; {kills.total()} in all")
    if told:
        terminalreporter.section("measured")
    for line in told:
        terminalreporter.line(line)
