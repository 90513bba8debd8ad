"""Packaging of actfocus_verl; the tools are configured in pyproject.toml.

The files under requirements/ are the one place that names dependencies and pins: this file, bootstrap.sh and a plain
``pip install -r`` all read them.
"""

from __future__ import annotations

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).resolve().parent
EXTRAS = ("cpu", "gpu", "dev", "worlds", "smollm2", "textcraft", "babyai", "textworld_express", "alfred", "agents")
# Worlds bring word lists and READMEs, reporting brings page templates: data files that live beside the modules.
DATA_FILES = [f"**/*.{suffix}" for suffix in ("md", "json", "html", "css", "js")]


def version() -> str:
    """Return ``__version__`` of the package without importing it."""
    source = (ROOT / "actfocus_verl" / "__init__.py").read_text(encoding="utf-8")
    match = re.search(r'^__version__ = "([^"]+)"$', source, re.MULTILINE)
    if match is None:
        raise RuntimeError('actfocus_verl/__init__.py has no line __version__ = "..."; add one')
    return match.group(1)


def requirements(name: str) -> list[str]:
    """Return the requirements of ``requirements/<name>.txt``, one string each, without comments."""
    lines = (ROOT / "requirements" / f"{name}.txt").read_text(encoding="utf-8").splitlines()
    stripped = (line.split("#", 1)[0].strip() for line in lines)
    return [line for line in stripped if line]


def readme() -> str:
    """Return the README for the package index, or nothing where the tree has none."""
    path = ROOT / "README.md"
    return path.read_text(encoding="utf-8") if path.is_file() else ""


setup(
    name="actfocus_verl",
    version=version(),
    description="ActFocus for verl: reinforcement learning of multi-turn LLM agents with token-level credit",
    long_description=readme(),
    long_description_content_type="text/markdown",
    author="The actfocus_verl authors",
    license="Apache-2.0",
    keywords="reinforcement-learning llm agents credit-assignment verl vllm ray grpo ppo",
    project_urls={"Paper": "https://arxiv.org/abs/2605.14558", "verl": "https://github.com/verl-project/verl"},
    license_files=["LICENSE"],
    python_requires=">=3.10,<3.13",
    # configs/ stays at the root of the repository, where a user looks for it; it is imported as actfocus_verl_configs.
    packages=[*find_packages(include=["actfocus_verl", "actfocus_verl.*"]), "actfocus_verl_configs"],
    package_dir={"actfocus_verl_configs": "configs"},
    package_data={"actfocus_verl": [*DATA_FILES, "py.typed"], "actfocus_verl_configs": ["**/*.yaml"]},
    zip_safe=False,
    install_requires=requirements("base"),
    extras_require={name: requirements(name) for name in EXTRAS},
    entry_points={
        "console_scripts": ["actfocus = actfocus_verl.__main__:main"],
        # verl imports the entry points of this group in every process that imports verl, Ray workers included.
        "verl.plugins": ["actfocus = actfocus_verl.plugin"],
    },
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
