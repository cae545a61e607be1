"""Trains the motion network on people 1 to 4 and writes its weights, batch norms folded.

Usage: network.py WEIGHTS.npz [SEED]. The only program that uses PyTorch; it runs in an
environment of its own (see ``train``). Nothing of people 5 to 8 is read here.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from network_settings import (
    BATCH,
    DROPOUT,
    EPOCHS,
    GAIN_JITTER,
    LAYERS,
    LEARNING_RATE,
    PEOPLE,
    SEED,
    SMOOTHING,
    TRAIN_HOP,
    WEIGHT_DECAY,
    WIDTH,
)
from recordings import class_names, read_recordings, windows_of
from torch import nn


class Motion(nn.Module):
    """Three convolutions, mean over time, one linear head."""

    def __init__(self, mean: torch.Tensor, deviation: torch.Tensor, classes: int) -> None:
        super().__init__()
        self.mean = nn.Parameter(mean, requires_grad=False)
        self.deviation = nn.Parameter(deviation, requires_grad=False)
        self.convolutions = nn.ModuleList(
            nn.Conv1d(i, o, kernel, stride, bias=False) for i, o, kernel, stride in LAYERS
        )
        self.norms = nn.ModuleList(nn.BatchNorm1d(o) for _, o, _, _ in LAYERS)
        self.drop = nn.Dropout(DROPOUT)
        self.head = nn.Linear(WIDTH, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits (n, classes) of windows (n, 6, 128)."""
        x = (x - self.mean) / self.deviation
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            x = torch.relu(norm(convolution(x)))
        return self.head(self.drop(x.mean(-1)))


def train(seed: int = SEED) -> Motion:
    """Train with a fixed seed on one thread, so that two runs give the same weights."""
    torch.manual_seed(seed)
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(mode=True)
    chance = torch.Generator().manual_seed(seed)
    chosen = [r for r in read_recordings() if r.person in PEOPLE]
    parts = [(windows_of(r.samples, TRAIN_HOP), r.label) for r in chosen]
    x = torch.tensor(np.concatenate([w for w, _ in parts]))
    y = torch.tensor(np.concatenate([np.full(len(w), label, np.int64) for w, label in parts]))
    network = Motion(x.mean((0, 2)).view(1, 6, 1), x.std((0, 2)).view(1, 6, 1), len(class_names()))
    optimiser = torch.optim.AdamW(network.parameters(), LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    steps = EPOCHS * (len(x) // BATCH)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for _ in range(EPOCHS):
        order = torch.randperm(len(x), generator=chance)
        for at in range(0, len(x) - BATCH + 1, BATCH):
            batch = order[at : at + BATCH]
            gain = 1 + GAIN_JITTER * torch.randn(BATCH, 6, 1, generator=chance)
            loss = nn.functional.cross_entropy(
                network(x[batch] * gain), y[batch], label_smoothing=SMOOTHING
            )
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
    return network.eval()


def folded(network: Motion) -> dict[str, np.ndarray]:
    """Return the weights as float32 arrays, each batch norm folded into its convolution."""
    arrays = {
        "mean": network.mean.numpy(),
        "inverse_deviation": 1 / network.deviation.numpy(),
        "head.weight": network.head.weight.detach().numpy(),
        "head.bias": network.head.bias.detach().numpy(),
    }
    pairs = zip(network.convolutions, network.norms, strict=True)
    for i, (convolution, norm) in enumerate(pairs):
        gain = norm.weight / torch.sqrt(norm.running_var + norm.eps)
        arrays[f"conv{i}.weight"] = (convolution.weight * gain.view(-1, 1, 1)).detach().numpy()
        arrays[f"conv{i}.bias"] = (norm.bias - norm.running_mean * gain).detach().numpy()
        arrays[f"conv{i}.stride"] = np.array(convolution.stride)
    return {
        n: a.astype(np.int64 if n.endswith("stride") else np.float32) for n, a in arrays.items()
    }


if __name__ == "__main__":
    np.savez(Path(sys.argv[1]), **folded(train(int(sys.argv[2]) if sys.argv[2:] else SEED)))
