"""Logistic regression of scikit-learn for the motion data, as a Flower app."""
