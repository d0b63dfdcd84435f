"""Trainings that can be continued and want another setting at another time, for comparisons of populations. numpy alone."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

State = Any
Train = Callable[[State, int, int, Mapping[str, Any], Sequence[int]], tuple[State, float]]


@dataclass(frozen=True)
class Task:
    """A training of `steps`, looked at each `interval`.

    `train(state, from, to, settings, key)` gives the state after it and its loss; noise comes from the key alone. `shown` is how
    a loss is printed, and `falls` says that a smaller one is better as it is printed.
    """

    spec: Sequence[Mapping[str, Any]]
    steps: int
    interval: int
    start: Callable[[], State]
    train: Train
    members: tuple[int, ...] = (4, 8)
    given: tuple[Mapping[str, float], ...] = ()
    shown: Callable[[float], float] = float
    falls: bool = True

    def worst(self, shown: np.ndarray) -> float:
        return float(shown.max() if self.falls else shown.min())


# The toy of M. Jaderberg et al., Population based training of neural networks, 2017, figure 2: Q = 1.2 - a^2 - b^2, climbed through
# 1.2 - h0 a^2 - h1 b^2 by two workers that see one coordinate each. A grid of (1, 0) and (0, 1) ends at 0.39; the most that can be
# reached is 1.1995 in 200 steps and 1.1715 in 100.


def _toy(rate: float) -> Train:
    def train(state: State, start: int, end: int, h: Mapping[str, Any], _: Sequence[int]) -> tuple[State, float]:
        slope = 2 * rate * np.array([h["h0"], h["h1"]])
        after = state * (1 - slope) ** (end - start)
        return after, float(np.square(after).sum() - 1.2)

    return train


HALF = {"h0": 1.0, "h1": 0.0}, {"h0": 0.0, "h1": 1.0}
WEIGHTS = [{"name": name, "float": {"min": 0.0, "max": 1.0}} for name in ("h0", "h1")]


# Gradient descent with momentum on a quadratic whose curvature rises thirtyfold and falls again. A constant learning rate must be
# small enough for the steepest time, and is too small at all others. The squared distance to the optimum is shown as its logarithm.

STEEPEST, TURN = 30.0, 200
AXES = np.geomspace(0.1, 1.0, 8)


def _curvature(step: int) -> float:
    return float(STEEPEST ** (0.5 - 0.5 * math.cos(2 * math.pi * step / TURN)))


def _quadratic(state: State, start: int, end: int, h: Mapping[str, Any], _: Sequence[int]) -> tuple[State, float]:
    x, v = state
    for step in range(start, end):
        v = h["momentum"] * v - h["lr"] * _curvature(step) * AXES * x
        x = x + v
        if not np.abs(x).max() < 1e6:
            return (x, v), 1e12
    return (x, v), float(np.square(x).mean())


DESCENT = [
    {"name": "lr", "float": {"min": 1e-3, "max": 10.0, "scale": "Log"}},
    {"name": "momentum", "float": {"min": 0.0, "max": 0.95}},
]


# A network of one hidden layer on scikit-learn's digits, three labels in ten of which are wrong: it has to learn fast at first, and
# not to learn the wrong labels at the end. Loss on labels that are right.

LAYERS, BATCHES, NOISE = (64, 48, 10), 15, 0.3


@functools.cache
def _digits() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    rng = np.random.default_rng(0)
    order = rng.permutation(len(labels))
    X, y = images[order] / 16.0, labels[order]
    wrong = np.where(rng.random(600) < NOISE, rng.integers(10, size=600), y[:600])
    return X[:600], wrong, X[600:1200], y[600:1200]


def _untrained() -> State:
    rng = np.random.default_rng(1)
    inputs, hidden, outputs = LAYERS
    return (
        rng.normal(0, 0.2, (inputs, hidden)), np.zeros(hidden), rng.normal(0, 0.2, (hidden, outputs)), np.zeros(outputs)
    )  # fmt: skip


def _network(state: State, start: int, end: int, h: Mapping[str, Any], key: Sequence[int]) -> tuple[State, float]:
    X, y, X_val, y_val = _digits()
    A, a, B, b = (each.copy() for each in state)
    rng = np.random.default_rng([*key, start])
    with np.errstate(all="ignore"):
        for _ in range(start, end):
            for batch in np.array_split(rng.permutation(len(y)), BATCHES):
                hidden = np.maximum(X[batch] @ A + a, 0)
                error = np.exp(_log_softmax(hidden @ B + b))
                error[np.arange(len(batch)), y[batch]] -= 1
                error /= len(batch)
                back = (error @ B.T) * (hidden > 0)
                B -= h["lr"] * (hidden.T @ error + h["decay"] * B)
                b -= h["lr"] * error.sum(axis=0)
                A -= h["lr"] * (X[batch].T @ back + h["decay"] * A)
                a -= h["lr"] * back.sum(axis=0)
        found = _log_softmax(np.maximum(X_val @ A + a, 0) @ B + b)
    return (A, a, B, b), float(-found[np.arange(len(y_val)), y_val].mean())


def _log_softmax(Z: np.ndarray) -> np.ndarray:
    Z = Z - Z.max(axis=1, keepdims=True)
    return np.asarray(Z - np.log(np.exp(Z).sum(axis=1, keepdims=True)))


NETWORK = [
    {"name": "lr", "float": {"min": 1e-3, "max": 3.0, "scale": "Log"}},
    {"name": "decay", "float": {"min": 1e-5, "max": 1e-1, "scale": "Log"}},
]

# Preconditioned descent on a quadratic: each name scales the axes in one way, and only one of them fits the curvature of the time,
# which changes twice (`scaling`) or never (`steady`). With the right names and the largest rate the squared distance falls by 0.8^2
# a step, to 10^-38.8 at the end. The loss is its logarithm, seen with some noise.

SHAPES = {"first": AXES, "second": AXES[::-1], "third": AXES[[0, 7, 1, 6, 2, 5, 3, 4]]}
SCALINGS = {"none": np.ones(len(AXES)), **SHAPES}
SEEN = 0.1


def _preconditioned(change: int) -> Train:
    def train(x: State, start: int, end: int, h: Mapping[str, Any], key: Sequence[int]) -> tuple[State, float]:
        for step in range(start, end):
            shape = list(SHAPES.values())[(step // change + 1) % len(SHAPES)]
            x = np.clip(x - h["lr"] * shape * x / SCALINGS[h["scaling"]], -1e6, 1e6)
        noise = SEEN * np.random.default_rng([*key, start]).standard_normal()
        return x, float(np.log10(np.square(x).mean()) + noise)

    return train


PRECONDITIONED = [
    {"name": "scaling", "categorical": {"choices": list(SCALINGS)}},
    {"name": "lr", "float": {"min": 1e-3, "max": 0.2, "scale": "Log"}},
]


# The digits with an optimizer as a name, whose momentum is a number of some of them only.

OPTIMIZERS = [
    {"name": "optimizer", "categorical": {"choices": ["sgd", "momentum", "adam", "sign"]}},
    {"name": "lr", "float": {"min": 1e-4, "max": 1.0, "scale": "Log"}},
    {"name": "momentum", "float": {"min": 0.0, "max": 0.95}, "when": [{"parameter": "optimizer", "in": ["momentum", "adam"]}]},
    {"name": "decay", "float": {"min": 1e-5, "max": 1e-1, "scale": "Log"}},
]


def _named(state: State, start: int, end: int, h: Mapping[str, Any], key: Sequence[int]) -> tuple[State, float]:
    X, y, X_val, y_val = _digits()
    (weights, first, second), steps = ([each.copy() for each in part] for part in state[:3]), state[3]
    rng, beta = np.random.default_rng([*key, start]), h.get("momentum", 0.9)
    with np.errstate(all="ignore"):
        for _ in range(start, end):
            for batch in np.array_split(rng.permutation(len(y)), BATCHES):
                A, a, B, b = weights
                hidden = np.maximum(X[batch] @ A + a, 0)
                error = np.exp(_log_softmax(hidden @ B + b))
                error[np.arange(len(batch)), y[batch]] -= 1
                error /= len(batch)
                back = (error @ B.T) * (hidden > 0)
                slopes = X[batch].T @ back + h["decay"] * A, back.sum(axis=0), hidden.T @ error + h["decay"] * B, error.sum(axis=0)
                steps += 1
                for i, slope in enumerate(slopes):
                    first[i] += (1 - beta) * (slope - first[i])
                    second[i] += 0.01 * (slope * slope - second[i])
                    ways = {
                        "sgd": slope,
                        "momentum": first[i] / (1 - beta),
                        "adam": first[i] / (np.sqrt(second[i] / (1 - 0.99**steps)) + 1e-8),
                        "sign": np.sign(slope),
                    }
                    weights[i] = weights[i] - h["lr"] * ways[h["optimizer"]]
        A, a, B, b = weights
        found = _log_softmax(np.maximum(X_val @ A + a, 0) @ B + b)
    return (weights, first, second, steps), float(-found[np.arange(len(y_val)), y_val].mean())


def _unnamed() -> State:
    return list(_untrained()), [np.zeros_like(w) for w in _untrained()], [np.zeros_like(w) for w in _untrained()], 0


TASKS = {
    "toy": Task(WEIGHTS, 200, 4, lambda: np.array([0.9, 0.9]), _toy(0.01), (2,), HALF, lambda loss: -loss, falls=False),
    "toy100": Task(WEIGHTS, 100, 4, lambda: np.array([0.9, 0.9]), _toy(0.01), (4,), (), lambda loss: -loss, falls=False),
    "quadratic": Task(DESCENT, TURN, 10, lambda: (np.ones_like(AXES), np.zeros_like(AXES)), _quadratic, shown=math.log10),
    "digits": Task(NETWORK, 40, 2, _untrained, _network),
    "scaling": Task(PRECONDITIONED, TURN, 10, lambda: np.ones_like(AXES), _preconditioned(70)),
    "steady": Task(PRECONDITIONED, TURN, 10, lambda: np.ones_like(AXES), _preconditioned(TURN)),
    "optimizers": Task(OPTIMIZERS, 40, 2, _unnamed, _named),
}
