"""A small network for the motion data, as a Flower app."""
