"""No configuration twice: shared by all samplers, for a finite space must come to an end."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from hpo_algorithms.space import Params
from hpo_algorithms.trials import Draw, History, Problem


def novel(problem: Problem, history: History, numbers: Sequence[int], draw: Callable[[int, int], Draw]) -> Sequence[Draw]:
    """One draw a number, `draw(number, attempt)`, none of which repeats a Trial or another of them.

    Of repetitions only finite spaces are looked at: in a continuous one they have probability zero. Where `draw` keeps repeating
    itself, or breaking the constraints of the space, the place is given to some configuration not tried yet that keeps them. Fewer
    draws than numbers mean that all have been tried.
    """
    space = problem.space
    if space.size is None and not space.constraints:
        return [draw(number, 0) for number in numbers]
    seen = {space.key(trial.params) for trial in history}
    seen |= {space.key(params) for params in problem.given}  # these will be tried, if they have not been
    draws = []
    for number in numbers:
        made: dict[str, Draw] = {}

        def params(attempt: int, number: int = number, made: dict[str, Draw] = made) -> dict[str, object]:
            made["last"] = draw(number, attempt)
            return dict(made["last"].params)

        found: Params | None = space.unseen(seen, params, problem.seed)  # type: ignore[arg-type]
        if found is None:
            break
        seen.add(space.key(found))
        draws.append(made["last"] if made and made["last"].params == found else Draw(found))
    return draws
