"""Random search [Bergstra2012]: the baseline that needs no assumption and can be run in any number at once.

[Bergstra2012] J. Bergstra and Y. Bengio, Random search for hyper-parameter optimization, JMLR 13, 2012.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hpo_algorithms.errors import Fault
from hpo_algorithms.samplers.novelty import novel
from hpo_algorithms.streams import stream
from hpo_algorithms.trials import Draw, History, Problem


@dataclass(frozen=True, slots=True)
class Random:
    """Draws each parameter independently and uniformly on its scale; a finite space is drawn without repetition.

    Sixty draws hit the best 5 % of the space's volume with probability 1 - 0.95^60 = 0.954. For anything that takes longer than a
    minute to train, `auto` finds as good a configuration in far fewer Trials.
    """

    def errors(self, problem: Problem) -> Sequence[Fault]:
        return ()

    def draw(self, problem: Problem, history: History, numbers: Sequence[int]) -> Sequence[Draw]:
        def one(number: int, attempt: int) -> Draw:
            return Draw(problem.space.sample(stream(problem.seed, number, f"random/{attempt}")))

        return novel(problem, history, numbers, one)
