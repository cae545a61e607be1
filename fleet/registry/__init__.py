"""What exists and what happened: one SQLite file, an event log with projections."""
