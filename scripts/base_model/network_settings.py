"""Every number that the base model's training depends on."""

SEED = 0
EPOCHS = 25
BATCH = 64
WIDTH = 64
LEARNING_RATE = 2e-3
WEIGHT_DECAY = 1e-3
SMOOTHING = 0.05
GAIN_JITTER = 0.05
DROPOUT = 0.3
PEOPLE = frozenset({1, 2, 3, 4})
TRAIN_HOP = 32
LAYERS = ((6, 32, 7, 2), (32, 48, 5, 2), (48, WIDTH, 3, 1))
"""Channels in, channels out, kernel, stride."""
