"""The model: what is wrong with it is one line before anything is loaded."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig
from transformers import AutoConfig

from actfocus_verl.errors import ConfigurationError
from actfocus_verl.preflight.derived import fill_derived
from actfocus_verl.preflight.model import check_model
from tests.config.conftest import ModelFolder, changed
from tests.helpers.tokenizer import GEMMA_TEMPLATE, QWEN_TEMPLATE, THINKING_TEMPLATE

PATH = "actor_rollout_ref.model.path"
ROOMY = {"data.max_prompt_length": 700, "data.max_response_length": 1000}

Check = Callable[..., None]


@pytest.fixture
def check(default_config: DictConfig) -> Check:
    def run(path: Path | str | None, **values: Any) -> None:
        config = changed(default_config, **ROOMY, **{PATH: None if path is None else str(path)})
        config = changed(config, **values)
        fill_derived(config)
        check_model(config)

    return run


def failure(check: Check, path: Path | str | None, **values: Any) -> str:
    with pytest.raises(ConfigurationError) as caught:
        check(path, **values)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_whole_folder_passes(check: Check, model_folder: ModelFolder, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        check(model_folder())
    assert not caplog.records


class TestPath:
    @pytest.mark.parametrize("path", ["no/such/folder", "/no/such/folder", "~/model", "Qwen/Qwen 2.5", "a/b/c"])
    def test_neither_folder_nor_id(self, check: Check, path: str) -> None:
        assert failure(check, path) == (
            f"{PATH}={path!r}: is neither a folder nor a Hugging Face id (organisation/name). "
            "Correct model.path; a ~ is not expanded, write $HOME"
        )

    def test_none(self, check: Check) -> None:
        assert failure(check, None).startswith(f"{PATH}=None: no model is chosen. Set model.path to a folder or")

    def test_a_file(self, check: Check, model_folder: ModelFolder) -> None:
        assert "is neither a folder nor a Hugging Face id" in failure(check, model_folder() / "config.json")

    @pytest.mark.parametrize(
        ("removed", "message"),
        [
            ("config.json", "the folder has no config.json (config.json). Use a complete Hugging Face folder"),
            (
                "model.safetensors",
                "the folder has no weights (*.safetensors, *.bin). Use a complete Hugging Face folder",
            ),
            (
                "tokenizer*",
                "the folder has no tokenizer (tokenizer.json, tokenizer_config.json, vocab.json, tokenizer.mod",
            ),
        ],
    )
    def test_an_incomplete_folder(self, check: Check, model_folder: ModelFolder, removed: str, message: str) -> None:
        folder = model_folder()
        for file in folder.glob(removed):
            file.unlink()
        assert failure(check, folder).startswith(f"{PATH}={str(folder)!r}: {message}")

    def test_a_damaged_config(self, check: Check, model_folder: ModelFolder) -> None:
        folder = model_folder()
        (folder / "config.json").write_text('{"model_type": "qwen2"')
        message = failure(check, folder)
        assert message.startswith(f"{PATH}={str(folder)!r}: its config.json cannot be loaded (")
        assert message.endswith("Check the name, the network, or the folder")

    def test_an_unknown_hub_id(self, check: Check, monkeypatch: pytest.MonkeyPatch) -> None:
        def offline(*_: Any, **__: Any) -> None:
            raise OSError("We couldn't connect to 'https://huggingface.co' to load the files.\nCheck your connection")

        monkeypatch.setattr(AutoConfig, "from_pretrained", offline)
        assert failure(check, "organisation/name") == (
            f"{PATH}='organisation/name': its config.json cannot be loaded (We couldn't connect to "
            "'https://huggingface.co' to load the files.). Check the name, the network, or the folder"
        )

    def test_a_remote_path_is_verls_to_fetch(self, check: Check) -> None:
        check("hdfs://cluster/model")

    @pytest.mark.parametrize("architectures", [[], None, ["A", "B"]])
    def test_one_architecture(self, check: Check, model_folder: ModelFolder, architectures: Any) -> None:
        message = failure(check, model_folder(architectures=architectures))
        assert f"config.json lists the architectures {architectures or []}, and verl needs exactly one. Set" in message


class TestTemplate:
    def test_none(self, check: Check, model_folder: ModelFolder) -> None:
        folder = model_folder(template=None)
        assert failure(check, folder) == (
            f"{PATH}={str(folder)!r}: its tokenizer has no chat template. Use an instruction-tuned (chat) model, "
            "or set actor_rollout_ref.model.custom_chat_template"
        )

    def test_one_that_refuses_the_system(self, check: Check, model_folder: ModelFolder) -> None:
        template = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}x"
        message = failure(check, model_folder(template=template))
        assert message.startswith(f"{PATH}=")
        assert "its chat template refuses system, user, assistant, user (no system)" in message

    def test_one_without_a_system_is_a_warning(
        self, check: Check, model_folder: ModelFolder, caplog: pytest.LogCaptureFixture
    ) -> None:
        with caplog.at_level(logging.WARNING):
            check(model_folder(template=GEMMA_TEMPLATE))
        assert "(System role not supported). So the world's rules go at the start of the first user" in caplog.text

    def test_its_options_count(self, check: Check, model_folder: ModelFolder) -> None:
        folder, options = model_folder(template=THINKING_TEMPLATE), "data.apply_chat_template_kwargs"
        message = failure(check, folder)
        assert message.startswith(f"{PATH}={str(folder)!r}: its chat template opens <think> itself")
        assert (
            f"Set +{options}.enable_thinking=false, or another chat template: actor_rollout_ref.model.cust" in message
        )
        check(folder, **{f"{options}.enable_thinking": False})
        assert failure(check, folder, **{f"{options}.thinking": False}) == (
            f"{options}.thinking=False: the chat template of {folder} reads no such name. "
            "Correct its name, or leave it out"
        )
        assert failure(check, folder, **{options: 3}).startswith(f"{options}=3: must be a mapping. Write +data")

    def test_its_options_count_in_the_length_of_a_prompt(self, check: Check, model_folder: ModelFolder) -> None:
        folder = model_folder(template="{% if long is defined %}{{ 'go ' * 900 }}{% endif %}" + QWEN_TEMPLATE)
        check(folder)
        assert "the first prompt has" in failure(check, folder, **{"data.apply_chat_template_kwargs.long": True})

    def test_one_from_the_configuration_counts(self, check: Check, model_folder: ModelFolder) -> None:
        template = (
            "{% for message in messages %}{{ message['role'] }}{{ message['content'] }}<|im_end|>{% endfor %}"
            "{% if add_generation_prompt %}assistant{% endif %}"
        )
        check(model_folder(template=None), **{"actor_rollout_ref.model.custom_chat_template": template})


class TestRoom:
    def test_a_prompt_that_is_too_long(self, check: Check, model_folder: ModelFolder) -> None:
        message = failure(check, model_folder(), **{"data.max_prompt_length": 64})
        assert message.startswith("data.max_prompt_length=64: too short for one turn: the first prompt has ")
        tokens = int(message.partition("first prompt has ")[2].split()[0])
        assert 400 < tokens < 700
        assert f"and a reply up to 400 (env.max_turn_tokens), {tokens + 400} in all" in message
        assert "there is room for data.max_prompt_length=64 and data.max_response_length=1000." in message
        assert message.endswith(f"Raise it to at least {tokens}")

    def test_a_reply_that_is_too_long(self, check: Check, model_folder: ModelFolder) -> None:
        message = failure(check, model_folder(), **{"data.max_response_length": 399})
        assert message.startswith("data.max_response_length=399: too short for one turn")
        assert message.endswith("Raise it to at least 400, or lower env.max_turn_tokens")

    def test_the_exact_fit_passes(self, check: Check, model_folder: ModelFolder) -> None:
        folder = model_folder()
        message = failure(check, folder, **{"data.max_prompt_length": 64})
        tokens = int(message.partition("first prompt has ")[2].split()[0])
        check(folder, **{"data.max_prompt_length": tokens, "data.max_response_length": 400})

    def test_the_models_positions(self, check: Check, model_folder: ModelFolder) -> None:
        folder = model_folder(max_position_embeddings=1024)
        assert failure(check, folder) == (
            "data.max_response_length=1000: with data.max_prompt_length=700 an episode may have 1700 tokens, and the "
            "model has 1024 positions (max_position_embeddings). Lower them to 1024 together"
        )
        assert failure(check, folder, **{"actor_rollout_ref.rollout.max_model_len": 2000}) == (
            "actor_rollout_ref.rollout.max_model_len=2000: the model has 1024 positions (max_position_embeddings). "
            "Lower it to at most 1024"
        )

    def test_its_largest_weight_fits_the_bucket_that_verl_sends_it_in(
        self, check: Check, model_folder: ModelFolder
    ) -> None:
        """40,000 x 512 x 4 bytes are 78.1 MB; verl sends weights of several processes as bfloat16."""
        folder = model_folder(vocab_size=40_000, hidden_size=512)
        key = "actor_rollout_ref.rollout.checkpoint_engine.update_weights_bucket_megabytes"
        assert failure(check, folder, **{key: 78}) == (
            f"{key}=78: a weight must fit, and the embedding (40000 x 512) takes 79 MB. Raise it to at least 79"
        )
        check(folder, **{key: 79})
        check(folder, **{key: 40, "trainer.nnodes": 2})
        with pytest.raises(ConfigurationError):
            check(folder, **{key: 39, "trainer.nnodes": 2})


class TestVocabulary:
    def test_more_rows_than_tokens_is_a_warning(
        self, check: Check, model_folder: ModelFolder, caplog: pytest.LogCaptureFixture
    ) -> None:
        with caplog.at_level(logging.WARNING):
            check(model_folder(vocab_size=1000))
        tokens = int(caplog.text.partition("its tokenizer ")[2].split()[0])
        assert "the model has 1000 output rows" in caplog.text
        assert f"ln(1000/{tokens}) = " in caplog.text

    def test_fewer_rows_than_tokens_is_an_error(self, check: Check, model_folder: ModelFolder) -> None:
        message = failure(check, model_folder(vocab_size=100))
        assert "tokens but its embedding only 100 rows. Use the model's own tokenizer" in message
