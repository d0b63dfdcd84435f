"""Writes what of the chart is generated, or only compares it (`--check`); exits with 1 where it is out of date."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from helm.generate import dashboards, values

CHART = Path(__file__).resolve().parents[1] / "hpo-operator"


def files(chart: Path = CHART) -> dict[str, str]:
    """All that is generated: texts by their paths in the chart."""
    found = values.read((chart / "values.yaml").read_text(encoding="utf-8"))
    return {
        "README.md": values.readme((chart / "README.md").read_text(encoding="utf-8"), found),
        "values.schema.json": values.schema(found),
        **{f"files/dashboards/{name}.json": text for name, text in dashboards.files().items()},
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Write or compare."""
    parser = argparse.ArgumentParser(prog="python -m helm.generate", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; fail when something would change")
    parser.add_argument("--chart", type=Path, default=CHART, help="the chart")
    asked = parser.parse_args(arguments)
    try:
        wanted = files(asked.chart)
    except values.Undocumented as error:
        print(error, file=sys.stderr)
        return 1
    stale = {path: text for path, text in wanted.items() if not _is(asked.chart / path, text)}
    for path, text in stale.items():
        if asked.check:
            print(f"helm/hpo-operator/{path} is out of date; run: python -m helm.generate", file=sys.stderr)
        else:
            (asked.chart / path).parent.mkdir(parents=True, exist_ok=True)
            (asked.chart / path).write_text(text, encoding="utf-8")
            print(f"wrote helm/hpo-operator/{path}")
    return 1 if asked.check and stale else 0


def _is(path: Path, text: str) -> bool:
    return path.exists() and path.read_text(encoding="utf-8") == text


if __name__ == "__main__":
    sys.exit(main())
