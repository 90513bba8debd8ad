"""How large the repository is, by room: python scripts/measure_house.py [COMMIT ...] [--tests]

Prints a Markdown table with a column for each commit (default: the working tree's HEAD): files and lines of Python in
each room of actfocus_verl/ and of the other folders, YAML files, and the files that the extending pages write for a
world and for a credit of one's own. --tests also runs the unit tests of the working tree and prints their seconds.
"""

from __future__ import annotations

import argparse
import io
import re
import subprocess
import sys
import tarfile
import time
from collections import Counter
from pathlib import Path, PurePosixPath
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[1]
PACKAGE: Final = "actfocus_verl"
PAGES: Final = {"a world": "docs/extending.md", "credit": "docs/extending_credit.md"}
_NAMED_BLOCK: Final = re.compile(r"^```(?:python|yaml)\n# ([\w./]+\.(?:py|yaml))$", re.MULTILINE)


def measures(commit: str) -> dict[str, str]:
    """Row -> value, of one commit's tree."""
    files, lines, yaml_files = Counter[str](), Counter[str](), 0
    pages: dict[str, str] = {}
    for name, content in tree(commit):
        if name.suffix in {".yaml", ".yml"}:
            yaml_files += 1
        if name.suffix == ".py":
            files[place(name)] += 1
            lines[place(name)] += content.count(b"\n")
        for what, page in PAGES.items():
            if str(name) == page:
                written = set(_NAMED_BLOCK.findall(content.decode()))
                pages[f"files on the page that adds {what}"] = f"{len(written)}"
    rooms = sorted(files, key=lambda where: (not where.startswith(PACKAGE), where))
    whole = [where for where in rooms if where.startswith(PACKAGE)]
    return {
        "package": f"{sum(files[w] for w in whole)} files, {sum(lines[w] for w in whole)} lines",
        **{where: f"{files[where]}, {lines[where]}" for where in rooms},
        "YAML files": str(yaml_files),
        **pages,
    }


def tree(commit: str) -> list[tuple[PurePosixPath, bytes]]:
    """Every file of a commit and its content."""
    packed = subprocess.run(["git", "archive", commit], cwd=ROOT, capture_output=True, check=True).stdout
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        members = [(member, archive.extractfile(member)) for member in archive if member.isfile()]
        return [(PurePosixPath(member.name), file.read()) for member, file in members if file is not None]


def place(name: PurePosixPath) -> str:
    """The room of a file of the package; elsewhere its folder below the root."""
    if name.parts[0] == PACKAGE:
        return f"{PACKAGE}/{name.parts[1]}/" if len(name.parts) > 2 else f"{PACKAGE}/*.py"
    return f"{name.parts[0]}/" if len(name.parts) > 1 else "root"


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("commits", nargs="*", default=["HEAD"], metavar="COMMIT")
    parser.add_argument("--tests", action="store_true", help="also run the unit tests and print their seconds")
    arguments = parser.parse_args()
    columns = [measures(commit) for commit in arguments.commits]
    rows = list(dict.fromkeys(row for column in reversed(columns) for row in column))
    print("| | " + " | ".join(arguments.commits) + " |")
    print("|---|" + "---|" * len(columns))
    for row in rows:
        print(f"| {row} | " + " | ".join(column.get(row, "") for column in columns) + " |")
    if not arguments.tests:
        return 0
    start = time.monotonic()
    tests = subprocess.run([sys.executable, "-m", "pytest", "-q", "-n", "2", "-m", "not e2e"], cwd=ROOT, check=False)
    print(f"unit tests: {time.monotonic() - start:.0f} s")
    return tests.returncode


if __name__ == "__main__":
    sys.exit(main())
