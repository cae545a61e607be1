"""A federated run on simulated devices in one process, to choose before touching a fleet."""
