"""What it saves that promoted Trials continue: examples/digits-mlp with and without checkpoints, in epochs and in time.

python -m benchmarks.continuation [--parallelism 2]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from hpo_operator.local.runner import LocalRunner
from hpo_operator.manifests import read_file, study_document
from hpo_operator.resources import Checkpoints, Study, VolumeClaim
from hpo_operator.validation import read_study

EXAMPLE = Path(__file__).parents[1] / "examples" / "digits-mlp"
STORE = Checkpoints(volume_claim=VolumeClaim(name="weights"))


def measured(study: Study, parallelism: int) -> str:
    """A line of the table: epochs trained, seconds, and what was found."""
    with tempfile.TemporaryDirectory() as folder:
        runner = LocalRunner(study, EXAMPLE, Path(folder), parallelism=parallelism)
        since = time.monotonic()
        ended = runner.run()
        seconds = time.monotonic() - since
        trials = runner.trials.values()
        epochs = sum((t.spec.budget or 0) - (t.spec.restore_from.step if t.spec.restore_from else 0) for t in trials)
        copied = sum(t.status.restored.size for t in trials if t.status.restored)
        copying = sum(t.status.restored.seconds for t in trials if t.status.restored)
    best = ended.status.best[0]
    store = "continues" if study.spec.checkpoints else "starts over"
    moved = f"{copied / 1e6:.1f} MB in {copying:.2f} s"
    return f"| {store} | {len(trials)} | {epochs} | {seconds:.0f} s | {best.number} | {best.metrics[0].value} | {moved} |"


def main(given: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parallelism", type=int, default=2)
    parallelism = parser.parse_args(given).parallelism
    path = EXAMPLE / "study.yaml"
    study = read_study(study_document(read_file(path), str(path)).data)
    print(
        "| a promoted Trial | Trials | epochs | time | best Trial | val_loss | copied |\n|---|---|---|---|---|---|---|", flush=True
    )
    for store in (None, STORE):
        spec = study.spec.model_copy(update={"checkpoints": store})
        print(measured(study.model_copy(update={"spec": spec}), parallelism), flush=True)


if __name__ == "__main__":
    main()
