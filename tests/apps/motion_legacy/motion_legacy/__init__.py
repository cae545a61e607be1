"""A small network for the motion data, as Flower apps were written before."""
