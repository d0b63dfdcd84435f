"""What an evaluation is worth when another one will follow: 2-OPT [Wu2019], by nested quadrature.

    2-OPT(x) = EI(x) + E[max over x' of EI'(x')]

where EI' is the expected improvement after the result at x, over the best known by then. The result is a normal variable, so the
outer mean is taken by Gauss-Hermite quadrature; given it, the posterior at x' follows from that before in closed form, with
s(x') = cov(x', x) / deviation(x) and a standard normal z:

    mean'(x') = mean(x') + s(x') z        deviation'(x')^2 = deviation(x')^2 - s(x')^2

The inner maximum is over given choices, which serves mixed and conditional spaces as well as continuous ones. (The paper prints
EI without the factor of the deviation in its second term.)

[Wu2019] J. Wu and P. Frazier, Practical two-step look-ahead Bayesian optimization, NeurIPS 2019.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.special import ndtr

from hpo_algorithms.gp.model import GP

NODES = 20  # of the quadrature, as in the paper
CELLS = 400_000  # candidates x choices worked on at once
SQRT_2PI = math.sqrt(2 * math.pi)


def log_two_step(model: GP, F: np.ndarray, choices: np.ndarray, best: float, nodes: int = NODES) -> np.ndarray:
    """The logarithm of 2-OPT at features F, shape (m, D), the second point being one of `choices`, shape (k, D)."""
    z, weights = np.polynomial.hermite_e.hermegauss(nodes)
    weights = weights / weights.sum()
    value = np.empty(len(F))
    later, spread = model.predict(choices)
    rows = max(CELLS // len(choices), 1)
    for i in range(0, len(F), rows):
        block = F[i : i + rows]
        mean, deviation = model.predict(block)
        s = model.covariance(block, choices) / deviation[:, None]
        after = np.sqrt(np.maximum(spread**2 - s**2, 1e-12))
        total = expected_improvement(mean, deviation, np.array(best))
        for node, weight in zip(z, weights, strict=True):
            lowest = np.minimum(best, mean + deviation * node)
            total += weight * expected_improvement(later + s * node, after, lowest[:, None]).max(axis=1)
        value[i : i + rows] = total
    return np.asarray(np.log(np.maximum(value, 1e-300)))


def expected_improvement(mean: np.ndarray, deviation: np.ndarray, best: np.ndarray) -> np.ndarray:
    """The expected improvement over `best`; not its logarithm, for maxima and sums of it do not become too small."""
    z = (best - mean) / deviation
    return np.asarray(deviation * np.maximum(z * ndtr(z) + np.exp(-0.5 * z * z) / SQRT_2PI, 0.0))
