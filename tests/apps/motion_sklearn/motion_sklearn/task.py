"""The model of scikit-learn, and where its windows come from."""

import warnings

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

CLASSES, FEATURES = 7, 12


def get_model(c, max_iter):
    """A model that starts from zero and goes on from where it is."""
    model = LogisticRegression(C=c, max_iter=max_iter, warm_start=True, solver="lbfgs")
    model.classes_ = np.arange(CLASSES)
    model.coef_ = np.zeros((CLASSES, FEATURES))
    model.intercept_ = np.zeros(CLASSES)
    return model


def get_parameters(model):
    return [model.coef_, model.intercept_]


def set_parameters(model, parameters):
    model.coef_, model.intercept_ = (np.array(p) for p in parameters)


def fit(model, data):
    with warnings.catch_warnings():  # a few steps a round do not converge, and need not
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(*data)


def load_data(path):
    """Features and labels of a device: (x, y) to train on, and (x, y) to test on."""
    with np.load(path) as found:
        windows, labels, split = found["x"], found["y"], found["split"]
    x = np.concatenate([windows.mean(axis=2), windows.std(axis=2)], axis=1).astype(np.float64)
    train, test = split == 0, split == 2
    return (x[train], labels[train]), (x[test], labels[test])
