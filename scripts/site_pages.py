"""A hook of mkdocs.yml: the site has the repository's own layout, so that its links hold there as well."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from mkdocs.structure.files import File, Files

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig

PAGES = (
    *("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md", "LICENSE"),
    *("docs/*.md", "docs/*.svg", "actfocus_verl/environments/*/README.md"),
    *("results/*/report/**/*", "results/truth/table.md", "results/before_training/scripted.md"),
)


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Replace the files of docs/ by the repository's pages, each under its path from the root."""
    root = Path(config.config_file_path).parent
    return Files(
        [
            *(file for file in files if file.src_dir != config.docs_dir),  # the theme's
            *(File.generated(config, name, abs_src_path=str(root / name)) for name in pages(root)),
        ]
    )


def pages(root: Path) -> Iterator[str]:
    """The files of PAGES, as paths from `root`."""
    for pattern in PAGES:
        for path in sorted(root.glob(pattern)):
            if path.is_file():
                yield path.relative_to(root).as_posix()
