"""Particle swarm optimisation on mixed and conditional spaces, by generations or in a steady state.

[Kennedy1995] J. Kennedy and R. Eberhart, Particle swarm optimization, ICNN 1995.
[Clerc2002] M. Clerc and J. Kennedy, The particle swarm: explosion, stability, and convergence, IEEE Trans. Evol. Comp. 6, 2002.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hpo_algorithms.encoding import Columns
from hpo_algorithms.errors import Fault
from hpo_algorithms.samplers.novelty import novel
from hpo_algorithms.samplers.population import best_first, first_point, packed, settled, unpacked
from hpo_algorithms.settings import setting
from hpo_algorithms.streams import stream
from hpo_algorithms.trials import Draw, History, Problem, Trial

WAITED_FOR = 0.8  # of a generation: the rest are stragglers, whose results count as the worst until they come
OVERTAKEN = 2  # generations by which half of the swarm is ahead of a straggler that is waited for no more
STANDSTILL = 1e-3  # mean speed as a share of each range below which a particle is thrown anew
ASIDE = 0.1  # probability with which a name is drawn from all, lest one that every particle has lost were lost for ever


@dataclass(frozen=True, slots=True)
class PSO:
    """Moves a swarm through the space, each particle drawn to the best place it has seen itself and to the best of all.

    1. The first `swarm` Trials are particles spread evenly over the space, with half the way to another place as velocity.
    2. The particle that has waited longest moves next: v <- w v + c1 r1 (own best - x) + c2 r2 (best of all - x), x <- x + v, where
       r1 and r2 are uniform in [0, 1], anew for each coordinate. c1 and c2 are those of the constriction of [Clerc2002], w is less
       than its 0.73, for a hundred Trials leave no time to circle. At its bounds a coordinate is reflected and comes to rest; a
       particle that hardly moves is thrown anew. A move that breaks a constraint between parameters is drawn anew
       at half the length, and so on.
    3. Numbers are coordinates on their scale, rounded only where the Trial needs a value. A name is kept, taken from the own best
       or from the best of all with the probabilities w : c1 : c2 (halved, as r1 and r2 are on average), or drawn from all in one
       case of ten: codes of names have no order to move along. A parameter that is inactive keeps its coordinate.

    In mode `steadyState` each result counts at once; in mode `generational` the best of all is that of the last generation of which
    80 % have ended. A failed Trial is the worst, and so is one that half of the swarm has overtaken by two generations. When more
    Trials run at once than the swarm has particles, it grows by as many. Where a particle is, unrounded, and how fast, stands in
    its Trials' memos.
    """

    mode: str = setting("steadyState", "When a result becomes the best of all.", choices=("steadyState", "generational"))
    swarm: int = setting(10, "Particles; less than 100 Trials leave time for few.", minimum=2, maximum=1000)
    inertia: float = setting(0.5, "Share w of its velocity that a particle keeps.", minimum=0, maximum=1)
    own: float = setting(1.49618, "Pull c1 of the best place that a particle has seen itself.", minimum=0, maximum=4)
    social: float = setting(1.49618, "Pull c2 of the best place of all.", minimum=0, maximum=4)

    def errors(self, problem: Problem) -> Sequence[Fault]:
        return ()

    def draw(self, problem: Problem, history: History, numbers: Sequence[int]) -> Sequence[Draw]:
        space = problem.space
        swarm = _swarm(problem, history, self)
        names = Columns.of(space).categorical
        named = np.isin(np.arange(len(space)), names)
        moves: dict[int, _Particle] = {}

        def one(number: int, attempt: int) -> Draw:
            if number not in moves:
                moves[number] = swarm.next()
            particle = moves[number]
            rng = stream(problem.seed, number, f"pso/{attempt}")
            if particle.x is None:
                x = first_point(problem, particle.index) if attempt == 0 else rng.random(len(space))
                v = (rng.random(len(space)) - x) / 2
            else:
                x, v = self._moved(rng, particle, swarm.best, names)
                if space.constraints and attempt:  # numbers turn back halfway, and again, to where the particle keeps them
                    share = 0.5**attempt
                    x, v = np.where(named, x, particle.x + share * (x - particle.x)), share * v
            v[names] = 0.0
            memo = f"particle {particle.index} {particle.generation} {packed(np.concatenate([x, v]))}"
            return Draw(space.decode(x), memo)

        return novel(problem, history, numbers, one)

    def _moved(
        self, rng: np.random.Generator, particle: _Particle, best: np.ndarray | None, names: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        assert particle.x is not None and particle.v is not None
        x, v = particle.x, particle.v
        own = x if particle.best is None else particle.best
        social = own if best is None else np.where(np.isnan(best), x, best)
        r1, r2, u, w = rng.random((4, len(x)))
        v = self.inertia * v + self.own * r1 * (own - x) + self.social * r2 * (social - x)
        numbers = np.setdiff1d(np.arange(len(x)), names)
        if len(numbers) and np.abs(v[numbers]).mean() < STANDSTILL:
            v = (rng.random(len(x)) - x) / 2
        moved = x + v
        outside = (moved < 0) | (moved > 1)
        moved = np.clip(np.where(moved < 0, -moved, np.where(moved > 1, 2 - moved, moved)), 0.0, 1.0)
        shares = np.cumsum([self.inertia + 1e-9, self.own / 2, self.social / 2])
        for j in names:
            chosen = np.searchsorted(shares / shares[-1], u[j])
            moved[j] = rng.random() if w[j] < ASIDE else (x[j], own[j], social[j])[min(chosen, 2)]
        return moved, np.where(outside, 0.0, v)


@dataclass(slots=True)
class _Particle:
    """Where a particle stands: its next generation, its last position and velocity, and the best position it has had."""

    index: int
    generation: int = 0
    x: np.ndarray | None = None
    v: np.ndarray | None = None
    best: np.ndarray | None = None


@dataclass(slots=True)
class _Swarm:
    """The swarm as its Trials show it: the particles that may move, longest waiting first, and the best place of all."""

    waiting: list[_Particle]
    size: int
    best: np.ndarray | None

    def next(self) -> _Particle:
        if self.waiting:
            return self.waiting.pop(0)
        self.size += 1
        return _Particle(self.size - 1)


def _swarm(problem: Problem, history: History, settings: PSO) -> _Swarm:
    d, ended = len(problem.space), settled(problem, history)
    ordered, usable = best_first(problem, ended)
    latest = {place[0]: (trial, place[1]) for trial in history if (place := _place(trial)) is not None}
    own = {place[0]: trial for trial in reversed(ordered[:usable]) if (place := _place(trial)) is not None}
    fresh = [_Particle(index) for index in range(settings.swarm) if index not in latest]
    waiting = [
        _Particle(index, generation + 1, *_motion(trial, d), _motion(own[index], d)[0] if index in own else None)
        for index, (trial, generation) in sorted(latest.items(), key=lambda item: item[1][0].number)
        if not trial.active
    ]
    closed = _closed(history, ended, settings.swarm) if settings.mode == "generational" else math.inf
    best = None
    for trial in ordered[:usable]:
        place = _place(trial)
        if place is None or place[1] <= closed:
            best = problem.space.encode(trial.params) if place is None else _motion(trial, d)[0]
            break
    return _Swarm([*fresh, *waiting], max(settings.swarm, 1 + max(latest, default=-1)), best)


def _closed(history: History, ended: Sequence[Trial], swarm: int) -> int:
    """The last generation of which enough have ended, -1 before the first. Who is overtaken holds up none from its own on."""
    counts = Counter(place[1] for trial in ended if (place := _place(trial)) is not None)
    ahead = max((generation for generation, count in counts.items() if count >= swarm / 2), default=-1) - OVERTAKEN
    late = [place[1] for trial in history if trial.active and (place := _place(trial)) is not None and place[1] <= ahead]
    enough = (g for g, count in counts.items() if count + sum(each <= g for each in late) >= WAITED_FOR * swarm)
    return max(enough, default=-1)


def _place(trial: Trial) -> tuple[int, int] | None:
    """The particle and the generation that stand in a memo."""
    words = trial.memo.split(" ", 3)
    return (int(words[1]), int(words[2])) if len(words) == 4 and words[0] == "particle" else None


def _motion(trial: Trial, d: int) -> tuple[np.ndarray, np.ndarray]:
    """The position and the velocity that stand in a memo."""
    both = unpacked(trial.memo.split(" ", 3)[3])
    return both[:d], both[d:].copy()
