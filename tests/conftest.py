"""What tests measured is said at the end of every run, of a quiet or parallel one too.

A test says it with ``record_property("measured", "one line")``.
"""

import pytest


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reports = [r for group in terminalreporter.stats.values() for r in group]
    told = sorted(
        str(line)
        for report in reports
        if getattr(report, "when", "") == "call"
        for name, line in report.user_properties
        if name == "measured"
    )
    if told:
        terminalreporter.section("measured")
    for line in told:
        terminalreporter.line(line)
