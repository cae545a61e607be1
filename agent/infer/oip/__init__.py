"""The Open Inference Protocol version 2, in both directions: bytes and values, no I/O."""
