"""What exists and what happened: an append-only event log and its projections."""
