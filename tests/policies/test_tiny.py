"""The built folder, the cache around it, and (e2e) whether the real policy is what it promises to be."""

import json
import random
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from filelock import FileLock
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from actfocus_verl import local_models
from actfocus_verl.environments import make_world
from actfocus_verl.errors import ConfigurationError
from actfocus_verl.policies import TinyPolicyConfig, build_tiny_policy, cache_key, ensure_tiny_policy, playing, tiny
from actfocus_verl.policies.tokenizer import train_tokenizer
from actfocus_verl.policies.training import new_model

SHARED_CACHE = Path(__file__).parents[2] / ".cache" / "tiny_policy"


def test_folder_loads_with_the_auto_classes(micro_folder):
    model, tokenizer = AutoModelForCausalLM.from_pretrained(micro_folder), AutoTokenizer.from_pretrained(micro_folder)
    assert type(model).__name__ == "Qwen2ForCausalLM"
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert model.config.vocab_size == len(tokenizer) == model.get_output_embeddings().weight.shape[0]
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert model.config.max_position_embeddings == 4096
    assert model.config.use_cache
    end, pad = tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"])
    for settings in (AutoConfig.from_pretrained(micro_folder), GenerationConfig.from_pretrained(micro_folder)):
        assert (settings.eos_token_id, settings.pad_token_id) == (end, pad)
    assert (tokenizer.eos_token_id, tokenizer.pad_token_id) == (end, pad)


def test_loaded_tokenizer_is_the_trained_one(micro_folder, micro_config):
    """AutoTokenizer must not put Qwen2's own splitting in the place of ours."""
    loaded = AutoTokenizer.from_pretrained(micro_folder)
    text = "\nYou: (3, 1). Goal: (1, 3). <think> ok </think> <answer> Left || Up </answer>, 12 ☃"
    conversations = [tiny.conversation(micro_config, episode) for episode in range(micro_config.episodes)]
    trained = train_tokenizer(tiny._texts(conversations), micro_config.vocab_size)
    assert loaded.get_vocab() == trained.get_vocab()
    assert loaded.encode(text) == trained.encode(text)
    assert loaded.decode(loaded.encode(text)) == text
    assert loaded.chat_template == trained.chat_template


@pytest.mark.parametrize("change", [{"coupling": "coupled"}, {"preset": "ragen"}])
def test_other_demonstrations_build_too(micro_config, tmp_path, change):
    report = build_tiny_policy(replace(micro_config, **change), tmp_path)
    assert report["config"].items() >= change.items()
    assert (tmp_path / "model.safetensors").is_file()


def test_a_world_says_how_its_policy_is_taught(micro_config, tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(tiny, "train", lambda model, tokenizer, examples, *rest: calls.append(examples) or 0.0)
    for env in ("frozen_lake", "webshop"):
        tiny.build_tiny_policy(replace(micro_config, env=env, vocab_size=500), tmp_path / env)
    lake, shop = (AutoModelForCausalLM.from_pretrained(tmp_path / env) for env in ("frozen_lake", "webshop"))
    assert lake.config.rope_parameters["rope_theta"] == 1e4
    assert shop.config.rope_parameters["rope_theta"] == 1e8
    assert [any(-100 in example["labels"] for example in examples) for examples in calls] == [True, False]
    assert AutoTokenizer.from_pretrained(tmp_path / "webshop").tokenize("click[Buy Now], ")[-1] == ", "


def test_same_config_same_bits(micro_folder, micro_config, tmp_path):
    random.seed(1)
    np.random.seed(2)
    torch.manual_seed(3)
    build_tiny_policy(micro_config, tmp_path)
    first, second = (load_file(folder / "model.safetensors") for folder in (micro_folder, tmp_path))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert (micro_folder / "tokenizer.json").read_bytes() == (tmp_path / "tokenizer.json").read_bytes()


def test_a_build_says_what_it_does_and_how_far_it_is(micro_config, tmp_path, monkeypatch, capfd):
    seen = []
    config = replace(micro_config, evaluation_episodes=2)
    monkeypatch.setattr(
        playing,
        "make_world",
        lambda *args, **kwargs: make_world(*args, **kwargs | {"max_turn_tokens": 5, "max_turns": 2}),
    )
    ensure_tiny_policy(config, tmp_path, lambda *call: seen.append(call))
    assert list(dict.fromkeys(stage for stage, _, _ in seen)) == [
        f"building {tmp_path / cache_key(config)}",
        "playing demonstrations",
        "training the tokenizer",
        "training",
        "evaluating",
    ]
    assert [call[1:] for call in seen if call[0] == "playing demonstrations"] == [(done, 12) for done in range(12)]
    assert [call[1:] for call in seen if call[0] == "training"] == [(done, 3) for done in range(4)]
    assert [call[1:] for call in seen if call[0] == "evaluating"] == [(0, 2), (0, 2)]
    assert capfd.readouterr() == ("", "")  # it says so to whoever asked, and nothing to the terminal
    seen.clear()
    ensure_tiny_policy(config, tmp_path, lambda *call: seen.append(call))
    assert seen == []


def test_another_seed_gives_other_weights(micro_folder, micro_config, tmp_path):
    build_tiny_policy(replace(micro_config, seed=1), tmp_path)
    first, second = (load_file(folder / "model.safetensors") for folder in (micro_folder, tmp_path))
    assert not torch.equal(first["model.norm.weight"], second["model.norm.weight"])


def test_build_leaves_the_process_as_it_was(micro_config, tmp_path):
    threads = torch.get_num_threads()
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    build_tiny_policy(micro_config, tmp_path)
    assert torch.get_num_threads() == threads
    assert states == (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())


def test_report_holds_config_and_seconds(micro_folder, micro_config):
    report = json.loads((micro_folder / "tiny_policy.json").read_text())
    assert TinyPolicyConfig(**report["config"]) == micro_config.resolved()
    assert set(report["seconds"]) == {"demonstrations", "tokenizer", "training"}
    model = AutoModelForCausalLM.from_pretrained(micro_folder)
    assert report["parameters"] == sum(parameter.numel() for parameter in model.parameters())


def test_evaluation_counts_true_sentences(micro_folder, micro_config, monkeypatch):
    config = replace(micro_config, evaluation_episodes=2)
    monkeypatch.setattr(
        playing,
        "make_world",
        lambda *args, **kwargs: make_world(*args, **kwargs | {"max_turn_tokens": 5, "max_turns": 1}),
    )
    monkeypatch.setattr(tiny, "_sentences", lambda text: ["", "never said"])  # the empty sentence is in every reply
    model, tokenizer = AutoModelForCausalLM.from_pretrained(micro_folder), AutoTokenizer.from_pretrained(micro_folder)
    evaluation = tiny.evaluate_policy(config, model, tokenizer)
    assert evaluation["episodes"] == 2
    assert evaluation["grounding"] == [1.0, 0.0]


def test_default_size_is_within_the_promise():
    config = TinyPolicyConfig()
    texts = tiny._texts([tiny.conversation(config, episode) for episode in range(300)])
    tokenizer = train_tokenizer(texts, config.vocab_size)
    model = new_model(config, tokenizer)
    assert 1_000_000 < sum(parameter.numel() for parameter in model.parameters()) < 4_000_000
    assert model.config.hidden_size // model.config.num_attention_heads in (32, 64)


class TestEnsure:
    """Around a build that takes no time."""

    @pytest.fixture
    def builds(self, monkeypatch):
        builds = []

        def build(config, folder, observe):
            builds.append(folder)
            (folder / "model.safetensors").write_text("weights")

        monkeypatch.setattr(tiny, "build_tiny_policy", build)
        return builds

    def test_builds_once(self, builds, tmp_path):
        config, root = TinyPolicyConfig(), tmp_path / "new" / "cache"
        folder = ensure_tiny_policy(config, root)
        assert folder == root / cache_key(config) == ensure_tiny_policy(config, root)
        assert len(builds) == 1
        assert (folder / "model.safetensors").read_text() == "weights"
        assert [path for path in root.iterdir() if path.is_dir()] == [folder]  # nothing unfinished is left

    def test_configs_have_folders_of_their_own(self, builds, tmp_path):
        folders = {ensure_tiny_policy(TinyPolicyConfig(seed=seed), tmp_path) for seed in (0, 1)}
        assert len(folders) == len(builds) == 2

    def test_concurrent_callers_build_once(self, builds, tmp_path):
        threads = [threading.Thread(target=ensure_tiny_policy, args=(TinyPolicyConfig(), tmp_path)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(builds) == 1

    def test_one_that_waits_says_so(self, builds, tmp_path, monkeypatch):
        monkeypatch.setattr(local_models, "_WAITING_SECONDS", 0.01)
        config, said, seen = TinyPolicyConfig(), threading.Event(), []

        def observe(stage, done, total):
            seen.append(stage)
            said.set()

        thread = threading.Thread(target=ensure_tiny_policy, args=(config, tmp_path, observe))
        with FileLock(tmp_path / f".{cache_key(config)}.lock"):
            thread.start()
            assert said.wait(30)
        thread.join(30)
        assert seen[0] == "waiting for another process to build it"
        assert seen[-1] == f"building {tmp_path / cache_key(config)}"

    def test_a_failed_build_leaves_nothing_and_can_be_repeated(self, builds, tmp_path, monkeypatch):
        with monkeypatch.context() as broken:
            broken.setattr(tiny, "build_tiny_policy", lambda config, folder, observe: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                ensure_tiny_policy(TinyPolicyConfig(), tmp_path)
        assert not [path for path in tmp_path.iterdir() if path.is_dir()]
        assert ensure_tiny_policy(TinyPolicyConfig(), tmp_path).is_dir()

    def test_an_unwritable_root_says_so(self, builds, tmp_path):
        occupied = tmp_path / "file"
        occupied.write_text("")
        with pytest.raises(ConfigurationError, match=r"cache_root=.*Choose a writable folder"):
            ensure_tiny_policy(TinyPolicyConfig(), occupied)
        assert builds == []


@pytest.mark.e2e
def test_the_real_policy_keeps_its_promises():
    """Success of 10 % to 30 %, 95 % of turns well-formed, 60 % of tokens reasoning."""
    folder = ensure_tiny_policy(TinyPolicyConfig(), SHARED_CACHE)
    report = json.loads((folder / "tiny_policy.json").read_text())
    play = report["evaluation"]
    assert play["episodes"] >= 256
    assert 0.10 <= play["success_rate"] <= 0.30
    assert play["well_formed_rate"] >= 0.95
    assert play["reasoning_share"] >= 0.60
    assert min(play["grounding"][:2]) >= 0.90  # where it is and where the goal is
    assert play["longest_episode"] <= 700
