"""Run it: one Runtime protocol, golden vectors, and the pipeline from source to sinks."""
