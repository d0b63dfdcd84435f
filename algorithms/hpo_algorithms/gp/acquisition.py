"""What an evaluation is worth, from the posterior of one model; losses are minimised, larger is better, all but UCB as logarithms.

With z = (best - mean) / deviation:

    EI   deviation (z Phi(z) + phi(z))      the expected improvement [Jones1998]; `logEI` is the same, for its logarithm keeps
                                            a slope where the value is below the smallest number [Ament2023]
    PI   Phi(z)                             the probability of any improvement
    UCB  beta deviation - mean              optimism [Srinivas2010]
    MES  E[g phi(g) / (2 Phi(g)) - log Phi(g)], g = (mean - y*) / deviation, over draws y* of the minimum: what an
                                            evaluation tells about the value of the optimum [Wang2017]

[Jones1998] D. Jones et al., Efficient global optimization of expensive black-box functions, J. Glob. Optim. 13, 1998.
[Srinivas2010] N. Srinivas et al., Gaussian process optimization in the bandit setting, ICML 2010.
[Wang2017] Z. Wang and S. Jegelka, Max-value entropy search for efficient Bayesian optimization, ICML 2017.
[Ament2023] S. Ament et al., Unexpected improvements to expected improvement for Bayesian optimization, NeurIPS 2023.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.special import erfcx, log_ndtr, ndtr

LOG_SQRT_2PI = 0.5 * math.log(2 * math.pi)
SQRT_HALF_PI = math.sqrt(math.pi / 2)


def log_ei(mean: np.ndarray, deviation: np.ndarray, best: float) -> np.ndarray:
    """The logarithm of the expected improvement, exact to rounding for any z."""
    z = (best - mean) / deviation
    near = np.maximum(z, -1.0)
    direct = np.log(near * ndtr(near) + np.exp(-0.5 * near * near - LOG_SQRT_2PI))
    # Below -1 both terms cancel: phi(z) (1 - |z| sqrt(pi/2) erfcx(|z| / sqrt 2)), which tends to phi(z) / z^2.
    far = np.minimum(z, -1.0)
    rest = np.maximum(1 + far * SQRT_HALF_PI * erfcx(-far / math.sqrt(2)), 1 / (far * far + 3))
    tail = -0.5 * far * far - LOG_SQRT_2PI + np.log(np.where(far < -1e3, 1 / (far * far), rest))
    return np.asarray(np.log(deviation) + np.where(z > -1, direct, tail))


def log_pi(mean: np.ndarray, deviation: np.ndarray, best: float) -> np.ndarray:
    """The logarithm of the probability of improvement."""
    return np.asarray(log_ndtr((best - mean) / deviation))


def ucb(mean: np.ndarray, deviation: np.ndarray, beta: float) -> np.ndarray:
    """Minus the lower confidence bound of the loss."""
    return np.asarray(beta * deviation - mean)


def log_mes(mean: np.ndarray, deviation: np.ndarray, minima: np.ndarray) -> np.ndarray:
    """The logarithm of the mean over draws of the minimum, shape (k,), of the information gained about it."""
    g = (mean[:, None] - minima[None, :]) / deviation[:, None]
    log_cdf = log_ndtr(g)
    information = g * np.exp(-0.5 * g * g - LOG_SQRT_2PI - log_cdf) / 2 - log_cdf
    return np.asarray(np.log(np.maximum(information.mean(axis=1), 1e-300)))


def drawn_minima(mean: np.ndarray, deviation: np.ndarray, rng: np.random.Generator, count: int) -> np.ndarray:
    """Draws of the minimum over independent normals: a Gumbel distribution through two of its quantiles [Wang2017]."""
    low, high = float((mean - 6 * deviation).min()), float(mean.min())
    quantiles = []
    for p in (0.25, 0.75):
        a, b = low, high
        for _ in range(40):
            middle = (a + b) / 2
            above = math.exp(float(log_ndtr((mean - middle) / deviation).sum()))  # P(minimum > middle)
            a, b = (middle, b) if 1 - above < p else (a, middle)
        quantiles.append((a + b) / 2)
    scale = max((quantiles[1] - quantiles[0]) / (math.log(-math.log(0.25)) - math.log(-math.log(0.75))), 1e-9)
    place = quantiles[1] - scale * math.log(-math.log(0.25))
    return np.asarray(np.minimum(place + scale * np.log(-np.log(rng.random(count))), high))
