"""Libraries of PyTorch's cache that a killed compiler left unfinished."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock

from actfocus_verl import serve
from actfocus_verl.evaluation import engine
from actfocus_verl.launch import compiled
from actfocus_verl.launch.compiled import compile_cache, remove_cut_short


@pytest.fixture
def library(tmp_path: Path) -> Path:
    """A real one, where and as inductor writes it."""
    source = tmp_path / "source.c"
    source.write_text("int one(void) { return 1; }\n")
    path = tmp_path / "cache" / "g2" / "cg2vf.main.so"
    path.parent.mkdir(parents=True)
    (tmp_path / "cache" / "locks").mkdir()
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", str(path), str(source)], check=True)
    return path


def test_a_whole_library_stays(library: Path) -> None:
    assert remove_cut_short(library.parents[1]) == []
    assert library.exists()


@pytest.mark.parametrize("size", [0, 3, 63, 64, 4096, -1])
def test_one_that_was_cut_short_goes(library: Path, size: int) -> None:
    content = library.read_bytes()
    library.write_bytes(content[:size])
    assert remove_cut_short(library.parents[1]) == [library]
    assert not library.exists()


def test_one_of_zeros_goes(library: Path) -> None:
    library.write_bytes(bytes(library.stat().st_size))
    assert remove_cut_short(library.parents[1]) == [library]


def test_one_that_is_being_written_stays(library: Path) -> None:
    library.write_bytes(b"")
    with FileLock(library.parents[1] / "locks" / "cg2vf.lock"):
        assert remove_cut_short(library.parents[1]) == []
    assert library.exists()


def test_a_cache_that_is_not_there_is_no_error(tmp_path: Path) -> None:
    assert remove_cut_short(tmp_path / "none") == []


def test_the_cache_is_where_torch_has_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from torch._inductor.runtime.cache_dir_utils import default_cache_dir

    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    assert str(compile_cache()) == default_cache_dir()
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    assert compile_cache() == tmp_path


class ReachedError(Exception):
    """Raised in place of vLLM's start."""


@pytest.mark.parametrize(
    "start",
    [lambda: engine._start("cpu", {"model": "none"}), lambda: serve.main(["none"])],
    ids=["evaluate, truth, diagnose", "serve"],
)
def test_whatever_starts_vllm_removes_them_first(start: Callable[[], None], monkeypatch: pytest.MonkeyPatch) -> None:
    def removed(cache: Path) -> None:
        assert cache == compile_cache()
        raise ReachedError

    monkeypatch.setattr(compiled, "remove_cut_short", removed)
    monkeypatch.setattr(os, "environ", os.environ.copy())
    monkeypatch.setattr(serve, "command_line", list)
    with pytest.raises(ReachedError):
        start()
