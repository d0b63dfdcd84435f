"""The names that copies get: TV.EXP3.M [ParkerHolder2021], a bandit that plays several names at once and follows what changes.

It is replayed from the Trials, not kept: the weights before a generation follow from the slots, donors, parameters and losses of
the Trials before it, and so do the chances with which their names were drawn, whoever drew them and in whichever order they ended.

[Gandhi2006] R. Gandhi et al., Dependent rounding and its applications to approximation algorithms, Journal of the ACM 53(3), 2006.
[ParkerHolder2021] J. Parker-Holder et al., Tuning mixed input hyperparameters on the fly for efficient population based AutoRL,
NeurIPS 2021.
[Uchiya2010] T. Uchiya, A. Nakamura and M. Kudo, Algorithms for adversarial bandit problems with multiple plays, ALT 2010.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from hpo_algorithms.encoding import Columns, encoded
from hpo_algorithms.population.generations import Step, improvement
from hpo_algorithms.streams import stream
from hpo_algorithms.trials import History, Problem, Proposal, Trial

TINY = 1e-9  # chances that differ from a whole number by less are one


@dataclass(frozen=True, slots=True)
class Bandit:
    """TV.EXP3.M for one categorical of C `names`, of which B different ones, the `plays`, are drawn at once, T times, the `rounds`.

    1. A name's chance to be among those drawn is B ((1 - gamma) w / sum w + gamma / C), where weights w that would make it more
       than one are cut before [Uchiya2010].
    2. Its reward in [0, 1], over its chance, estimates what it would have earned had it been drawn for certain.
    3. w becomes w exp(B gamma reward / C) + e alpha sum w / C, without the factor where w was cut: the share alpha that all get is
       what lets a name come back that becomes the best later.

    gamma = min(1, sqrt(C ln(C / B) / ((e - 1) B T))) and alpha = 1 / T, as in the paper.
    """

    names: int
    plays: int
    rounds: int

    @property
    def gamma(self) -> float:
        C, B, T = self.names, self.plays, self.rounds
        return min(1.0, math.sqrt(C * math.log(C / B) / ((math.e - 1) * B * T)))

    def chances(self, weights: np.ndarray) -> np.ndarray:
        """The chance of each name to be drawn, shape (C,): they sum to the number of plays."""
        cut, _ = self._cut(weights)
        return np.asarray(np.minimum(self.plays * ((1 - self.gamma) * cut / cut.sum() + self.gamma / self.names), 1.0))

    def draw(self, weights: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """As many different names as there are plays, by number, in random order."""
        return np.asarray(rng.permutation(np.flatnonzero(dependent(self.chances(weights), rng))))

    def after(self, weights: np.ndarray, drawn: int, had: np.ndarray, sure: np.ndarray, rewards: np.ndarray) -> np.ndarray:
        """The weights after a round, which sum to one.

        Args:
            weights: those before it, shape (C,).
            drawn: how many names were drawn; more than `plays` are as many draws as that takes.
            had: the names that got rewards, by number, shape (n,).
            sure: which of those were there whatever was drawn, shape (n,).
            rewards: what each got, shape (n,).
        """
        chances = 1 - (1 - self.chances(weights)) ** math.ceil(drawn / self.plays)
        chances[had[sure]] = 1.0
        counts = np.bincount(had, minlength=self.names)
        earned = np.bincount(had, rewards, minlength=self.names) / np.maximum(counts, 1)
        _, whole = self._cut(weights)
        estimated = np.where(whole, 0.0, earned / chances)
        grown = weights * np.exp(self.plays * self.gamma / self.names * estimated)  # by e at most: no chance is below B gamma / C
        found = grown + math.e / self.rounds / self.names * weights.sum()
        return np.asarray(found / found.sum())

    def _cut(self, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Weights by which no chance is above one, and which of them had to be cut for that."""
        nothing = np.zeros(self.names, dtype=bool)
        if self.plays == 1 or self.gamma == 1:
            return weights, nothing
        most = (1 / self.plays - self.gamma / self.names) / (1 - self.gamma)  # a weight's share of the sum
        ordered = np.sort(weights)[::-1]
        if ordered[0] < most * ordered.sum():
            return weights, nothing
        limit = ordered[0]
        for count in range(1, self.plays):  # never all plays: what explores is left to the others
            limit = most * ordered[count:].sum() / (1 - count * most)
            if ordered[count] < limit:
                break
        whole = weights >= limit
        return np.where(whole, limit, weights), whole


def dependent(chances: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Which of several are drawn, each with its own chance, and always as many as the chances sum to [Gandhi2006]."""
    p = chances.copy()
    while len(loose := np.flatnonzero((p > TINY) & (p < 1 - TINY))) > 1:
        i, j = loose[:2]
        up, down = min(1 - p[i], p[j]), min(p[i], 1 - p[j])
        shift = up if rng.random() < down / (up + down) else -down
        p[i], p[j] = p[i] + shift, p[j] - shift
    return p > 0.5


class Names:
    """The names of copies: a bandit for each categorical, whose rounds are generations, and whose plays the copies made in them.

    1. A reward is the share of the other members of the generation that improved less: what is earned at one time is not compared
       with what is earned at another.
    2. Members that go on with the name that they have show what it earns as well, and for certain: with one copy or two a
       generation there would be little to learn from otherwise.
    3. Nothing is said by members in which a categorical is inactive, nor by a generation in all copies of which it is.

    Args:
        batch: how many copies a generation has when no member is lost. Where there are as many as a categorical has names, each is
            drawn on its own, for together they would always be all of the names.
        rounds: how many generations have copies.
    """

    def __init__(self, problem: Problem, history: History, batch: int, rounds: int) -> None:
        self._problem, self._rounds = problem, rounds
        self._known = {trial.number: trial for trial in history}
        self._at: dict[int, list[Trial]] = {}
        for trial in history:
            if trial.donor in self._known and trial.slot.generation is not None:
                self._at.setdefault(trial.slot.generation, []).append(trial)
        parameters = problem.space.parameters
        self._bandits = {}
        for j in map(int, Columns.of(problem.space).categorical):
            count = parameters[j].count
            assert count is not None
            self._bandits[j] = Bandit(count, batch if batch < count else 1, max(rounds, 1))
        self._weights: dict[int, dict[int, np.ndarray]] = {}

    def chances(self, generation: int) -> Mapping[int, np.ndarray]:
        """The chance of each name to be among those drawn for a generation, by column of the categorical."""
        weights = self._before(generation)
        return {j: bandit.chances(weights[j]) for j, bandit in self._bandits.items()}

    def of(self, step: Step, beside: Sequence[Proposal]) -> Mapping[int, float]:
        """The unit coordinate of the name that a copy gets in each categorical, by column."""
        generation = step.generation
        # Copies of a generation are asked for one by one or together: each finds its place in the same draws.
        index = sum(map(self._copied, [*self._at.get(generation, ()), *beside]))
        found, weights = {}, self._before(generation)
        for j, bandit in self._bandits.items():
            draw, place = divmod(index, bandit.plays)
            rng = stream(self._problem.seed, generation, f"pb2/names/{j}/{draw}")
            found[j] = (int(bandit.draw(weights[j], rng)[place]) + 0.5) / bandit.names
        return found

    def _before(self, generation: int) -> dict[int, np.ndarray]:
        """The weights by column that the results of earlier generations have left."""
        if generation in self._weights or not self._bandits:
            return self._weights.get(generation, {})
        weights = {j: np.full(bandit.names, 1 / bandit.names) for j, bandit in self._bandits.items()}
        for earlier in sorted(each for each in self._at if each < generation):
            ended = [trial for trial in self._at[earlier] if not trial.active]
            sure = np.array([not self._copied(trial) for trial in ended], dtype=bool)
            rewards = rewarded(np.array([improvement(trial, self._known[trial.donor or 0]) for trial in ended]))
            U = encoded(self._problem.space, [trial.params for trial in ended])
            for j, bandit in self._bandits.items():
                active = ~np.isnan(U[:, j])
                drawn = int((active & ~sure).sum())
                if drawn:  # else the names that members went on with would earn, and no other could have
                    had = (U[active, j] * bandit.names).astype(int)
                    weights[j] = bandit.after(weights[j], drawn, had, sure[active], rewards[active])
        self._weights[generation] = weights
        return weights

    def _copied(self, trial: Trial | Proposal) -> bool:
        """Whether it goes on from another member than its own."""
        return trial.donor is not None and self._known[trial.donor].slot.member != trial.slot.member


def rewarded(gains: np.ndarray) -> np.ndarray:
    """The share of the others that each is better than, equals by half; zero for what is not finite, as of one that failed."""
    finite = np.isfinite(gains)
    known = np.where(finite, gains, -math.inf)
    better = (known[:, None] > known).sum(axis=1)
    equal = (known[:, None] == known).sum(axis=1) - 1
    others = max(len(gains) - 1, 1)
    shares = (better + 0.5 * equal) / others if len(gains) > 1 else np.full(len(gains), 0.5)
    return np.asarray(np.where(finite, shares, 0.0))
