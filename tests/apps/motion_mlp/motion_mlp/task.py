"""The network, how it learns, and where its windows come from."""

import numpy as np

CLASSES, FEATURES = 7, 24


class Net:
    """One hidden layer of rectified units, then a softmax."""

    def __init__(self, hidden: int) -> None:
        rng = np.random.default_rng(0)
        self.weights = [
            rng.normal(0, 0.3, (FEATURES, hidden)).astype(np.float32),
            np.zeros(hidden, np.float32),
            rng.normal(0, 0.3, (hidden, CLASSES)).astype(np.float32),
            np.zeros(CLASSES, np.float32),
        ]

    def forward(self, x):
        first, first_bias, second, second_bias = self.weights
        hidden = np.maximum(x @ first + first_bias, 0)
        logits = hidden @ second + second_bias
        logits = np.exp(logits - logits.max(axis=1, keepdims=True))
        return hidden, logits / logits.sum(axis=1, keepdims=True)


def get_weights(net):
    return [w.copy() for w in net.weights]


def set_weights(net, weights):
    net.weights = [np.array(w, np.float32) for w in weights]


def load_data(path):
    """Features and labels of a device: (x, y) to train on, and (x, y) to test on."""
    with np.load(path) as found:
        windows, labels, split = found["x"], found["y"], found["split"]
    x = np.concatenate(
        [windows.mean(axis=2), windows.std(axis=2), windows.min(axis=2), windows.max(axis=2)],
        axis=1,
    ).astype(np.float32)
    train, test = split == 0, split == 2
    return (x[train], labels[train]), (x[test], labels[test])


def train(net, data, epochs, lr):
    """Full-batch gradient descent; returns the loss of the last step."""
    x, y = data
    wanted = np.eye(CLASSES, dtype=np.float32)[y]
    loss = 0.0
    for _ in range(epochs):
        hidden, chances = net.forward(x)
        loss = float(-np.log(np.maximum(chances[np.arange(len(y)), y], 1e-9)).mean())
        slope = (chances - wanted) / len(y)
        below = (slope @ net.weights[2].T) * (hidden > 0)
        slopes = [x.T @ below, below.sum(axis=0), hidden.T @ slope, slope.sum(axis=0)]
        net.weights = [
            (w - lr * s).astype(np.float32) for w, s in zip(net.weights, slopes, strict=True)
        ]
    return loss


def test(net, data):
    x, y = data
    _, chances = net.forward(x)
    loss = float(-np.log(np.maximum(chances[np.arange(len(y)), y], 1e-9)).mean())
    return loss, float((chances.argmax(axis=1) == y).mean())
