"""The documentation names what exists: links, commands, groups, keys with their defaults."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from omegaconf import OmegaConf

from actfocus_verl.preflight.overrides import GROUPS, known_names
from tests.config.conftest import compose_config

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").glob("*.md"))]
_MISSING = object()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    for link in links:
        assert link.startswith("https://") or (page.parent / link).exists(), f"{page.name} links to {link}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_named_in_the_text_exist(page: Path) -> None:
    """Paths in backticks that start with a folder of the repository, or of the package."""
    text = page.read_text(encoding="utf-8")
    paths = re.findall(r"`((?:configs|recipes|scripts|tests|docs)/[\w./-]+\w)`", text)
    modules = re.findall(r"`((?:integration|platforms|credit|launch|rollout)/\w+\.py)`", text)
    for path in paths + [f"actfocus_verl/{module}" for module in modules]:
        assert (ROOT / path).exists(), f"{page.name} names {path}"


def test_the_readme_has_the_two_commands_once_each() -> None:
    blocks = re.findall(r"^```bash\n(.*?)^```$", README.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()]
    for command in ("bash recipes/quickstart.sh", "bash scripts/test.sh"):
        assert lines.count(command) == 1
        assert (ROOT / command.removeprefix("bash ")).exists()


def test_the_readmes_table_of_groups_is_complete() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (.+?) \| .* \|$", README.read_text(encoding="utf-8"), re.MULTILINE)
    table = {group: set(re.findall(r"`([^`]+)`", choices)) for group, choices in rows if group in GROUPS}
    files = {group: {name for name in known_names(group) if "/" not in name} for group in GROUPS}
    files["experiment"] |= {"configs/experiment/paper", "configs/experiment/small"}  # tests/config knows their files
    assert table == files


def test_keys_and_defaults_are_those_of_the_configuration() -> None:
    text = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([\w.]+\.[\w.]+)` \| `([^`]+)` \|", text, re.MULTILINE)
    assert len(rows) > 30
    config = compose_config()
    for key, default in rows:
        value = OmegaConf.select(config, key, default=_MISSING)
        assert value is not _MISSING, f"{key} is no key"
        value = OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
        assert value == yaml.safe_load(default), f"{key} is {value!r}"
