"""What the site is made of: the repository's pages where they lie, so that the links between them hold as they do on a forge."""

from __future__ import annotations

import subprocess
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
PAGES_AND_WHAT_THEY_LINK_TO = (
    "*.md",
    "deploy/*.yaml",
    "examples/*/study.yaml",
    "images/*/Dockerfile",
    "docs/site.css",
    "docs/algorithms/curves/*.svg",
)


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Those that are committed, or will be, instead of those below docs/ alone; and the theme's."""
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", *PAGES_AND_WHAT_THEY_LINK_TO]
    names = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    ours = (File(name, str(ROOT), config.site_dir, config.use_directory_urls) for name in sorted(names) if (ROOT / name).is_file())
    return Files([*(each for each in files if each.src_dir != config.docs_dir), *ours])
