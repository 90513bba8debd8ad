"""The critic's attention is the configured one on every platform: verl's own code would build flash attention's."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from verl.utils import model as verl_model
from verl.workers.config import HFModelConfig
from verl.workers.engine import EngineRegistry

from actfocus_verl.integration.engine import CPUValueFSDPEngine, ValueFSDPEngine
from actfocus_verl.platforms.packed_attention import PACKED_SDPA
from tests.helpers.engines import save_tiny_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("model"))


def built(engine: type, folder: Path, attention: str | None) -> Any:
    """The module that the engine would build, without its process group."""
    override = {} if attention is None else {"attn_implementation": attention}
    made = object.__new__(engine)
    made.model_config = HFModelConfig(path=str(folder), model_type="value_model", override_config=override)
    made.engine_config = SimpleNamespace(model_dtype="fp32", forward_only=False)
    made.device_mesh, made.use_remove_padding, made.ulysses_sequence_parallel_size = None, False, 1
    return made._build_module()


@pytest.mark.parametrize("vendor", ["nvidia", "amd"])
@pytest.mark.parametrize("backend", ["fsdp", "fsdp2"])
def test_verl_takes_it_on_gpus(monkeypatch: pytest.MonkeyPatch, backend: str, vendor: str) -> None:
    monkeypatch.setenv("VERL_ENGINE_DEVICE", "cuda")
    monkeypatch.setenv("VERL_ENGINE_VENDOR", vendor)
    assert EngineRegistry.get_engine_cls("value_model", backend) is ValueFSDPEngine


@pytest.mark.parametrize(
    ("engine", "attention"), [(ValueFSDPEngine, "sdpa"), (ValueFSDPEngine, "eager"), (CPUValueFSDPEngine, PACKED_SDPA)]
)
def test_the_attention_is_the_configured_one(folder: Path, engine: type, attention: str) -> None:
    module = built(engine, folder, attention)
    assert module.config._attn_implementation == attention
    values = module(input_ids=torch.arange(8).view(1, 8), use_cache=False).logits
    assert values.shape == (1, 8, 1)
    assert values.dtype == torch.float32


def test_flash_attention_is_left_to_verl(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def load(**arguments: Any) -> torch.nn.Module:
        asked.append(arguments["local_path"])
        raise RuntimeError("no flash attention here")

    monkeypatch.setattr(verl_model, "load_valuehead_model", load)
    with pytest.raises(RuntimeError, match="no flash attention here"):
        built(ValueFSDPEngine, folder, None)
    assert asked == [str(folder)]
