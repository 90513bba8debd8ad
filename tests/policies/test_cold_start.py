"""Cold starts of a chat model with random weights, in seconds."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from actfocus_verl import cold_start
from actfocus_verl.cold_start import Arguments
from actfocus_verl.environments import World
from actfocus_verl.errors import ConfigurationError, Interrupted
from actfocus_verl.policies.finetuning import FineTuning, collator, fine_tune, ordered_batches
from tests.helpers.tokenizer import build_tokenizer

QUIET = Console(quiet=True)


def chat_model(folder: Path, template: bool = True) -> Path:
    torch.manual_seed(0)
    tokenizer = build_tokenizer() if template else build_tokenizer(template=None)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return chat_model(tmp_path_factory.mktemp("chat"))


@pytest.fixture
def given(model, tmp_path):
    return Arguments(
        model=str(model),
        env="frozen_lake",
        out=tmp_path / "out",
        episodes=6,
        batch_size=2,
        learning_rate=1e-3,
        evaluation_episodes=0,
        device="cpu",
    )


class Unplayed(World):
    """A world without a script."""

    name = "unplayed"


def weights(folder):
    return load_file(folder / "model.safetensors")


class TestWhole:
    def test_a_full_cold_start_leaves_a_model_and_its_record(self, given, model):
        found = cold_start.cold_start(replace(given, evaluation_episodes=2), QUIET)
        assert found["training"]["steps"] == 3
        assert found["before"]["episodes"] == found["after"]["episodes"] == 2
        assert sorted(path.name for path in given.out.iterdir() if path.is_dir()) == []
        trained = AutoModelForCausalLM.from_pretrained(given.out)
        assert trained.config.use_cache
        assert AutoTokenizer.from_pretrained(given.out).chat_template
        before, after = weights(model), weights(given.out)
        assert any(not torch.equal(before[name], after[name]) for name in before)
        again = cold_start.cold_start(replace(given, evaluation_episodes=2), QUIET)
        assert again["training"] == found["training"]

    def test_resumed_it_gives_the_weights_of_one_that_was_not_interrupted(self, given, monkeypatch):
        cold_start.cold_start(given, QUIET)

        other = replace(given, out=given.out.with_name("other"), save_minutes=0.0)
        monkeypatch.setattr(cold_start.StageProgress, "__call__", _interrupt_at("training", 2))
        with pytest.raises(Interrupted):
            cold_start.cold_start(other, QUIET)
        monkeypatch.undo()
        cold_start.cold_start(other, QUIET)
        once, twice = weights(given.out), weights(other.out)
        for name in once:
            torch.testing.assert_close(once[name], twice[name], rtol=0, atol=1e-6)

    def test_the_time_limit_ends_it_and_saves(self, given):
        found = cold_start.cold_start(replace(given, minutes=0.0), QUIET)
        assert found["training"]["steps"] == 1
        assert found["training"]["stopped_by_time"]
        assert (given.out / "model.safetensors").is_file()

    def test_lora_leaves_the_adapter_and_the_merged_model(self, given, model):
        cold_start.cold_start(replace(given, lora_rank=2), QUIET)
        assert (given.out / "adapter" / "adapter_model.safetensors").is_file()
        before, after = weights(model), weights(given.out)
        assert before.keys() == after.keys()
        changed = {name for name in before if not torch.equal(before[name], after[name])}
        assert changed
        assert all("proj" in name for name in changed)

    def test_bfloat16_keeps_float32_weights(self, given):
        found = cold_start.cold_start(replace(given, dtype="bfloat16"), QUIET)
        assert found["training"]["loss"] > 0
        assert {value.dtype for value in weights(given.out).values()} == {torch.float32}


def _interrupt_at(stage, step):
    def call(self, now, done, total):
        if (now, done) == (stage, step):
            raise Interrupted

    return call


class TestErrors:
    @pytest.mark.parametrize(
        ("change", "key"),
        [({"env": "moon"}, "env"), ({"model": "no such model!"}, "model"), ({"device": "cuda:77"}, "device")],
    )
    def test_a_mistake_is_named(self, given, change, key):
        with pytest.raises(ConfigurationError) as caught:
            cold_start.cold_start(replace(given, **change), QUIET)
        assert caught.value.key == key

    def test_no_chat_template(self, given, tmp_path):
        with pytest.raises(ConfigurationError, match="chat template"):
            cold_start.cold_start(replace(given, model=str(chat_model(tmp_path / "bare", template=False))), QUIET)

    def test_a_world_that_nobody_plays(self, given):
        with pytest.raises(ConfigurationError, match="script"):
            cold_start.cold_start(replace(given, env="tests.policies.test_cold_start:Unplayed"), QUIET)

    def test_a_folder_of_something_else(self, given):
        given.out.mkdir()
        (given.out / "thesis.txt").write_text("")
        with pytest.raises(ConfigurationError, match="not empty"):
            cold_start.cold_start(given, QUIET)

    def test_a_folder_of_another_cold_start(self, given):
        cold_start.cold_start(given, QUIET)
        with pytest.raises(ConfigurationError, match="batch_size=2"):
            cold_start.cold_start(replace(given, batch_size=3), QUIET)


class TestTraining:
    def test_every_conversation_is_read_once_before_any_again(self):
        lengths = [7, 3, 9, 1, 5, 8, 2]
        order = ordered_batches(lengths, FineTuning(steps=7, batch_size=2, learning_rate=1.0))
        assert len(order) == 14
        assert sorted(order[:7]) == sorted(order[7:]) == list(range(7))

    def test_packed_conversations_do_not_see_each_other(self, model):
        network, tokenizer = AutoModelForCausalLM.from_pretrained(model), AutoTokenizer.from_pretrained(model)
        examples = [
            {"input_ids": [5 + number, 40, 41, 50, 60 + number], "labels": [-100, 40, -100, 50, 60 + number]}
            for number in range(3)
        ]
        examples[1] = {name: ids[:4] for name, ids in examples[1].items()}
        losses = []
        for packing in (False, True):
            batch = collator(tokenizer, packing=packing)([dict(example) for example in examples])
            losses.append(network(**batch, use_cache=False).loss)
        torch.testing.assert_close(*losses, rtol=1e-5, atol=1e-6)

    def test_packing_trains_as_padding_does(self, model, tmp_path):
        examples = [{"input_ids": [5, 40 + n, 41, 50], "labels": [-100, -100, 41, 50]} for n in range(4)]
        tokenizer, found = AutoTokenizer.from_pretrained(model), []
        for packing in (False, True):
            network = AutoModelForCausalLM.from_pretrained(model)
            tuning = FineTuning(steps=2, batch_size=2, learning_rate=1e-3, packing=packing)
            fine_tune(network, tokenizer, examples, tuning, tmp_path / str(packing))
            found.append(network.state_dict())
        for name in found[0]:
            torch.testing.assert_close(found[0][name], found[1][name], rtol=0, atol=1e-5)


def test_it_runs_where_there_is_no_trainer():
    """The packages of training and serving are blocked: a GPU machine may have torch and transformers alone."""
    blocked = "for name in ('verl', 'ray', 'vllm', 'hydra', 'transfer_queue', 'datasets'): sys.modules[name] = None"
    program = f"import sys\n{blocked}\nimport actfocus_verl.cold_start"
    subprocess.run([sys.executable, "-c", program], check=True, timeout=300)
