"""Random numbers that belong to a decision."""

from __future__ import annotations

import numpy as np
from hpo_algorithms.streams import stream

GOLDEN = [0.46832244200506434, 0.7815520366012262, 0.5030915303215608]  # of seed 7, Trial 3, "random/0"


def test_the_same_decision_draws_the_same_numbers_in_every_version_and_process() -> None:
    """Golden values: a change here would change running Studies."""
    assert stream(7, 3, "random/0").random(3).tolist() == GOLDEN
    assert stream(7, 3, "random/0").random(3).tolist() == GOLDEN


def test_every_seed_number_and_purpose_has_a_stream_of_its_own() -> None:
    keys = [(seed, number, purpose) for seed in (0, 1, 11) for number in (0, 1, 11, 111) for purpose in ("a", "b", "a/0", "1/a")]
    first = {stream(*key).random() for key in keys}
    assert len(first) == len(keys)


def test_neighbouring_streams_are_uniform_and_unrelated() -> None:
    draws = np.array([stream(0, number, "x").random(2) for number in range(2000)])
    assert abs(draws.mean() - 0.5) < 0.02
    assert abs(np.corrcoef(draws[:-1, 0], draws[1:, 0])[0, 1]) < 0.07
    assert abs(np.corrcoef(draws[:, 0], draws[:, 1])[0, 1]) < 0.07
