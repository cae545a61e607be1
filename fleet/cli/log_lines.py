"""The manager's log: one event, one line, and nothing that a terminal would act upon.

A stranger chooses the topic of a request, and a device the words of an alarm. Both stand
in the log; neither may end a line in it and begin another.
"""

import logging

from agent.contract.plain_text import plain


class PlainLines(logging.Formatter):
    """Writes an event on one line; a trace keeps its lines, each of them plain."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - as in logging
        """Return the line of an event."""
        return plain(super().formatMessage(record))

    def formatException(self, ei: object) -> str:  # noqa: N802 - as in logging
        """Return the lines of a trace."""
        trace = super().formatException(ei)  # type: ignore[arg-type]  # as logging hands it over
        return "\n".join(plain(line) for line in trace.split("\n"))


def log_events() -> None:
    """Write events to standard error."""
    to = logging.StreamHandler()
    to.setFormatter(PlainLines("%(asctime)s level=%(levelname)s %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[to])
    # They tell at every signing which key has yet to sign; the refusal itself is ours to tell.
    logging.getLogger("tuf").setLevel(logging.WARNING)
