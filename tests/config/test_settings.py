"""What the configuration itself says: every mistake is one line with its key, its value and the remedy."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from omegaconf import DictConfig

from actfocus_verl.config import has_reference, require_weighting_columns, world_overrides
from actfocus_verl.credit.registry import build_weighting
from actfocus_verl.errors import ConfigurationError
from actfocus_verl.preflight.derived import fill_derived
from actfocus_verl.preflight.settings import check_config
from tests.config.conftest import changed, compose_config, composed

NO_REFERENCE = {"actor_rollout_ref.actor.use_kl_loss": False}
MINI_BATCH = "actor_rollout_ref.actor.ppo_mini_batch_size"
ROLLOUT = "actor_rollout_ref.rollout"


def check(config: DictConfig) -> None:
    fill_derived(config)
    check_config(config)


def failure(config: DictConfig) -> str:
    with pytest.raises(ConfigurationError) as caught:
        check(config)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_defaults_pass(default_config: DictConfig, ppo_config: DictConfig) -> None:
    for config in (default_config, ppo_config):
        copy = config.copy()
        fill_derived(copy)
        check_config(copy)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"env.name": "sokobann"}, "env.name='sokobann': unknown world. Use one of: alfred_rooms, "),
        ({"env.preset": "dirty"}, "env.preset='dirty': unknown preset of frozen_lake. Use one of: clean, ragen"),
        ({"env.size": 2}, "env.size=2: must be an integer between 3 and 8. Set it to a value between 3 and 8"),
        ({"env.success_rate": 1.2}, "env.success_rate=1.2: must be a number between 0 and 1"),
        ({"env.max_turns": 0}, "env.max_turns=0: must be an integer >= 1"),
        ({"env.format_penalty": 0.1}, "env.format_penalty=0.1: must be a finite number <= 0"),
        ({"env.slippery": 1}, "env.slippery=1: unknown key of frozen_lake. Known: size, "),
        (
            {"env.train_size": 6001},
            "env.train_size=6001: board index out of range: split 'train' of frozen_lake/clean has 6000 boards. "
            "Set env.train_size to at most 6000",
        ),
        (
            {"env.evaluation_size": 2000},
            "env.evaluation_size=2000: board index out of range: split 'evaluation' of frozen_lake/clean has 1024 "
            "boards. Set env.evaluation_size to at most 1024",
        ),
        (
            {
                "env.evaluation_size": 1200,
                "data.val_files": "test",
                "env.frozen_probability": 1.0,
                "env.train_size": 12,
            },
            "board",  # without holes there is a handful of boards, in whichever split
        ),
        ({"env.evaluation_size": 0}, "env.evaluation_size=0: must be an integer >= 1"),
        ({"env.train_size": 11}, "env.train_size=11: fewer boards than prompt groups per step"),
        (
            {"env.preset": "ragen", "env.evaluation_size": None},
            "env.evaluation_size=None: frozen_lake/ragen has an unbounded number",
        ),
        (
            {"env.preset": "ragen", "trainer.total_training_steps": None},
            "env.train_size=None: frozen_lake/ragen has an unbounded",
        ),
        ({"env.seed": -1}, "env.seed=-1: must be an integer >= 0. Set it to a value >= 0"),
        ({"data.train_files": "train.parquet"}, "data.train_files='train.parquet': is not a split"),
        ({"data.val_files": ["evaluation", "test"]}, "data.val_files=['evaluation', 'test']: is not a split"),
        (
            {"credit.name": "actfocuss"},
            "credit.name='actfocuss': is not a known weighting. Choose one of actfocus, action_only, aem, ",
        ),
        ({"credit.alpha": 1.5}, "credit.alpha=1.5: must be a number between 0 and 1"),
        ({"credit.alpha": -0.1}, "credit.alpha=-0.1: must be a number between 0 and 1"),
        ({"credit.beta": -1}, "credit.beta=-1: must be a finite number >= 0"),
        (
            {"credit.gamma": 1},
            "credit.gamma=1: is not a parameter of the weighting actfocus. Known keys: name, normalize, ",
        ),
        (
            {"credit.normalize": "token"},
            "credit.normalize='token': is not a known value. Choose one of: batch, mini_batch",
        ),
        (
            {"credit.normalize": "mini_batch", "actor_rollout_ref.actor.shuffle": True},
            "credit.normalize='mini_batch': actor.shuffle=True cuts mini-batches inside the workers. Set ",
        ),
        (
            NO_REFERENCE,
            "credit.name='actfocus': needs the energy of a frozen reference, and no reference is configured. "
            "Set actor_rollout_ref.actor.use_kl_loss=true actor_rollout_ref.actor.kl_loss_coef=0: a reference without "
            "a KL force, at the cost of one forward pass per step and its weights in memory (none with LoRA)",
        ),
        (
            {"actor_rollout_ref.model.use_fused_kernels": True},
            "actor_rollout_ref.model.use_fused_kernels=True: fused kernels never form the logits whose energy "
            "credit.name=actfocus needs. Set it to false, or use credit=uniform",
        ),
        ({"run.diagnose": "yes"}, "run.diagnose='yes': must be true or false"),
        (
            {"credit.beta": 0, "run.diagnose": True, **NO_REFERENCE},
            "run.diagnose=True: needs the energy of a frozen reference, and no reference is configured. Set "
            "actor_rollout_ref.actor.use_kl_loss=true",
        ),
        (
            {"credit.beta": 0, "run.diagnose": True, "actor_rollout_ref.model.use_fused_kernels": True},
            "actor_rollout_ref.model.use_fused_kernels=True: fused kernels never form the logits whose energy "
            "run.diagnose needs. Set it to false, or run.diagnose=false",
        ),
        (
            {"run.diagnose": True, f"{ROLLOUT}.n": 1},
            "run.diagnose=True: correlates energy with the spread of returns in a prompt group, and groups have one",
        ),
        (
            {"filter.name": "topp"},
            "filter.name='topp': is not a known filter. Choose one of min_p, none, reward_variance, soft_reweight, ",
        ),
        (
            {"filter.name": "top_p"},
            "filter.ratio=1.0: is not a parameter of the filter top_p. Known keys: name, p, ",
        ),
        ({"filter.ratio": 0}, "filter.ratio=0: must be a number > 0 and <= 1"),
        ({"filter.ratio": 1.5}, "filter.ratio=1.5: must be a number > 0 and <= 1"),
        (
            {"trainer.resume_mode": "always"},
            "trainer.resume_mode='always': is not a known value. Choose one of: auto, disable, resume_",
        ),
        ({"trainer.use_v1": False}, "trainer.use_v1=False: token weights live in verl's v1 trainers. Set it to true"),
        (
            {"distillation.enabled": True},
            "distillation.enabled=True: distillation replaces the loss that token weights enter",
        ),
        ({"data.train_batch_size": 0}, "data.train_batch_size=0: must be an integer >= 1"),
        ({"data.train_batch_size": "twelve"}, "data.train_batch_size='twelve': must be an integer >= 1"),
        ({f"{ROLLOUT}.n": 0}, f"{ROLLOUT}.n=0: must be an integer >= 1. Set it to a value >= 1"),
        ({f"{ROLLOUT}.val_kwargs.n": -1}, f"{ROLLOUT}.val_kwargs.n=-1: must be an integer >= 1"),
        ({MINI_BATCH: 0}, f"{MINI_BATCH}=0: must be an integer >= 1"),
        ({"trainer.total_training_steps": 0}, "trainer.total_training_steps=0: must be an integer >= 1"),
        ({"run.rollouts_every": 0}, "run.rollouts_every=0: must be an integer >= 1"),
        ({f"{ROLLOUT}.temperature": 0.0}, f"{ROLLOUT}.temperature=0: training divides logits by it"),
        ({f"{ROLLOUT}.temperature": -1.0}, f"{ROLLOUT}.temperature=-1.0: must be a number between 0 and 2"),
        ({f"{ROLLOUT}.val_kwargs.temperature": "warm"}, f"{ROLLOUT}.val_kwargs.temperature='warm': must be a number"),
        ({"algorithm.gamma": 1.1}, "algorithm.gamma=1.1: must be a number between 0 and 1"),
        (
            {"trainer.n_gpus_per_node": 5},
            f"{MINI_BATCH}=12: a mini-batch of 12 x {ROLLOUT}.n=8 = 96 rows cannot be shared by 5 data-parallel "
            "processes. Choose it so that the number of rows is a multiple of 5",
        ),
        (
            {f"{ROLLOUT}.tensor_model_parallel_size": 2},
            "tensor_model_parallel_size=2: a server spans 2 devices (tensor_model_parallel_size=2), which does not "
            "divide the 1 devices that the servers use",
        ),
        (
            {f"{ROLLOUT}.max_model_len": 1000},
            f"{ROLLOUT}.max_model_len=1000: an episode may have 384 + 2048 = 2432 tokens (data.max_prompt_length + "
            "data.max_response_length). Raise it to at least 2432, or lower those",
        ),
        (
            {"actor_rollout_ref.actor.ppo_max_token_len_per_gpu": 2431},
            "actor_rollout_ref.actor.ppo_max_token_len_per_gpu=2431: a micro-batch cannot hold one episode of up to "
            "2432 tokens (data.max_prompt_length + data.max_response_length). Raise it to at least 2432",
        ),
        (
            {"actor_rollout_ref.ref.log_prob_max_token_len_per_gpu": 100},
            "actor_rollout_ref.ref.log_prob_max_token_len_per_gpu=100: a micro-batch cannot hold one episode",
        ),
    ],
)
def test_a_mistake_is_one_line(default_config: DictConfig, values: dict[str, Any], message: str) -> None:
    assert message in failure(changed(default_config, **values))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"critic.ppo_mini_batch_size": 0}, "critic.ppo_mini_batch_size=0: must be an integer >= 1"),
        (
            {"critic.ppo_infer_max_token_len_per_gpu": 5},
            "critic.ppo_infer_max_token_len_per_gpu=5: a micro-batch cannot",
        ),
        (
            {"critic.ppo_mini_batch_size": 5, "trainer.n_gpus_per_node": 3},
            "critic.ppo_mini_batch_size=5: a mini-batch of 5 x actor_rollout_ref.rollout.n=8 = 40 rows cannot",
        ),
    ],
)
def test_a_mistake_about_the_critic_is_one_line(ppo_config: DictConfig, values: dict[str, Any], message: str) -> None:
    assert message in failure(changed(ppo_config, **values))


def test_a_long_board_list_is_checked_at_its_end_when_the_boards_are_ones_own(default_config: DictConfig) -> None:
    """3x3 boards run out long before index 6000; the preset's number of boards holds for the preset's size alone."""
    config = changed(default_config, **{"env.size": 3, "env.train_size": 400, "env.frozen_probability": 1.0})
    message = failure(config)
    assert message.startswith("env.train_size=400: board ")
    assert "env.size=3" in message


def test_null_sizes_mean_all_boards_and_one_update_a_step(default_config: DictConfig) -> None:
    config = default_config.copy()
    fill_derived(config)
    assert (config.env.train_size, config.env.evaluation_size) == (6000, 512)
    assert config.data.boards.train_size == 6000
    assert config.actor_rollout_ref.actor.ppo_mini_batch_size == 12
    assert config.critic.ppo_mini_batch_size == 12


def test_a_null_size_of_an_endless_split_is_a_new_board_for_every_prompt(default_config: DictConfig) -> None:
    config = changed(default_config, **{"env.preset": "ragen"})
    fill_derived(config)
    assert config.env.train_size == 40 * 12


def test_a_null_mini_batch_is_what_the_filter_keeps(ppo_config: DictConfig) -> None:
    config = ppo_config.copy()
    fill_derived(config)
    assert config.actor_rollout_ref.actor.ppo_mini_batch_size == 3  # int(0.25 * 12)
    check_config(config)


@pytest.mark.parametrize(("name", "groups"), [("zero_variance", 12), ("top_p", 11), ("soft_reweight", 12)])
def test_a_null_mini_batch_is_the_most_a_filter_can_keep(name: str, groups: int) -> None:
    """top_p keeps most where all groups differ alike: 11 of 12 are the first to have 9 tenths of the mass."""
    assert composed(f"filter={name}").actor_rollout_ref.actor.ppo_mini_batch_size == groups


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("filter=top_p filter.p=0", "filter.p=0: must be a number > 0 and <= 1"),
        (
            "filter=zero_variance_refill algorithm.filter_groups.enable=false",
            "algorithm.filter_groups.enable=False: filter.name=zero_variance_refill leaves dropping",
        ),
        (
            "early_stop=ragen2 early_stop.steps=0",
            "early_stop.steps=0: must be an integer >= 1",
        ),
        (
            "filter=min_p algorithm=ppo actor_rollout_ref.rollout.n=1",
            "filter.name='min_p': actor_rollout_ref.rollout.n=1: a group of one has no deviation of returns, which ",
        ),
        (
            "filter=reward_variance algorithm=ppo actor_rollout_ref.rollout.n=1",
            "filter.name='reward_variance': actor_rollout_ref.rollout.n=1: a group of one has no deviation of returns",
        ),
    ],
)
def test_a_filter_or_a_rule_that_cannot_work_is_named(arguments: str, message: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        composed(*arguments.split())
    assert str(caught.value).startswith(message)


def test_set_sizes_stay(default_config: DictConfig) -> None:
    config = changed(default_config, **{"env.train_size": 24, MINI_BATCH: 4})
    fill_derived(config)
    assert (config.env.train_size, config.actor_rollout_ref.actor.ppo_mini_batch_size) == (24, 4)
    check_config(config)


def test_padding_rows_are_warned_about(ppo_config: DictConfig, caplog: pytest.LogCaptureFixture) -> None:
    config = changed(ppo_config, **{MINI_BATCH: 12})
    fill_derived(config)
    with caplog.at_level(logging.WARNING):
        check_config(config)
    assert f"{MINI_BATCH}=12: a step trains on 3 of data.train_batch_size=12 groups" in caplog.text
    assert "critic.ppo_mini_batch_size=12" in caplog.text  # it follows the actor's


def test_a_group_of_one_is_warned_about(default_config: DictConfig, caplog: pytest.LogCaptureFixture) -> None:
    config = changed(default_config, **{f"{ROLLOUT}.n": 1})
    fill_derived(config)
    with caplog.at_level(logging.WARNING):
        check_config(config)
    assert "actor_rollout_ref.rollout.n=1: a group of one" in caplog.text


@pytest.mark.parametrize(
    ("sizes", "gpus", "message"),
    [
        ({"tensor": 2, "data": 2}, (1, 4), None),
        ({"tensor": 8, "pipeline": 2}, (2, 8), None),
        (
            {"tensor": 2, "data": 4},
            (1, 4),
            "tensor_model_parallel_size=2: a server spans 8 devices (tensor_model_parallel_size=2 x "
            "data_parallel_size=4), which does not divide the 4 devices that the servers use",
        ),
        (
            {"pipeline": 3},
            (1, 4),
            "pipeline_model_parallel_size=3: a server spans 3 devices (pipeline_model_parallel_size",
        ),
        ({"data": 0}, (1, 4), "data_parallel_size=0: must be an integer >= 1"),
        (
            {"tensor": 6},
            (3, 4),
            "a server spans 6 devices (tensor_model_parallel_size=6), which is not a whole number of n",
        ),
    ],
)
def test_a_server_spans_the_product_of_its_sizes(
    sizes: dict[str, int], gpus: tuple[int, int], message: str | None
) -> None:
    keys = {"tensor": "tensor_model", "data": "data", "pipeline": "pipeline_model"}
    values = {f"{ROLLOUT}.{keys[name]}_parallel_size": size for name, size in sizes.items()}
    config = compose_config("platform=gpu", "data.train_batch_size=24", f"trainer.nnodes={gpus[0]}")
    config = changed(config, **values, **{"trainer.n_gpus_per_node": gpus[1]})
    if message is None:
        check(config)
    else:
        assert message in failure(config)


@pytest.mark.parametrize("part", ["actor_rollout_ref.actor", "actor_rollout_ref.ref", "critic"])
@pytest.mark.parametrize("place", ["", "fsdp_config.", "fsdp."])
def test_a_sequence_is_shared_with_flash_attention_only(part: str, place: str) -> None:
    """verl would train on attention to a process's own part of the sequence, without a word."""
    model = "critic.model" if part == "critic" else "actor_rollout_ref.model"
    key, attention = f"{part}.{place}ulysses_sequence_parallel_size", f"{model}.override_config.attn_implementation"
    config = changed(compose_config("platform=gpu", "algorithm=ppo"), **{key: 2})
    check(config.copy())  # verl's default is flash attention
    assert failure(changed(config, **{attention: "sdpa"})) == (
        f"{key}=2: needs flash attention: with {attention}=sdpa each process would attend to its own part of a "
        f"sequence only. Set it to 1, or {attention}=flash_attention_2 with flash-attn installed"
    )


def test_a_sequence_shared_by_processes_has_their_tokens_together() -> None:
    default_config = compose_config("platform=gpu")
    key = "actor_rollout_ref.actor.ppo_max_token_len_per_gpu"
    shared = {"actor_rollout_ref.actor.ulysses_sequence_parallel_size": 2, "trainer.n_gpus_per_node": 2}
    others = {
        f"{ROLLOUT}.log_prob_max_token_len_per_gpu": 1216,
        "actor_rollout_ref.ref.log_prob_max_token_len_per_gpu": 1216,
    }
    config = changed(default_config, **shared, **others, **{key: 1216})
    fill_derived(config)
    check_config(config)
    assert f"{key}=1215" in failure(changed(config, **{key: 1215}))


class TestReference:
    def test_uniform_needs_none(self) -> None:
        config = compose_config("credit=uniform")
        assert not has_reference(config)
        require_weighting_columns(config, build_weighting({"name": "uniform"}))

    def test_without_energy_none_is_needed(self, default_config: DictConfig) -> None:
        without = changed(default_config, **NO_REFERENCE)
        require_weighting_columns(without, build_weighting({"name": "actfocus", "beta": 0.0}))

    @pytest.mark.parametrize(
        ("signal", "wanted"),
        [
            ("entropy", "reference_entropy"),
            ("gauge_free_energy", "gauge_free_energy"),
            ("log_prob_shift", "ref_log_prob"),
        ],
    )
    def test_other_signals_of_the_reference_need_one(
        self, default_config: DictConfig, signal: str, wanted: str
    ) -> None:
        weighting = build_weighting({"name": "actfocus", "signal": signal})
        require_weighting_columns(default_config, weighting)
        with pytest.raises(ConfigurationError, match=f"needs the {wanted} of a frozen reference, and no reference is"):
            require_weighting_columns(changed(default_config, **NO_REFERENCE), weighting)

    @pytest.mark.parametrize("weighting", ["action_only", "entropy_quantile", "aem", "empg", "influence"])
    def test_the_policys_own_columns_need_none(self, default_config: DictConfig, weighting: str) -> None:
        require_weighting_columns(changed(default_config, **NO_REFERENCE), build_weighting({"name": weighting}))

    def test_a_penalty_in_the_reward_gives_one(self, default_config: DictConfig) -> None:
        config = changed(default_config, **NO_REFERENCE, **{"algorithm.use_kl_in_reward": True})
        require_weighting_columns(config, build_weighting({"name": "actfocus"}))


class TestEntropy:
    BYPASS = {"algorithm.rollout_correction.bypass_mode": True}

    @pytest.mark.parametrize("name", ["entropy_quantile", "aem", "empg", "influence"])
    def test_a_pass_that_is_left_out_gives_none(self, default_config: DictConfig, name: str) -> None:
        weighting = build_weighting({"name": name})
        require_weighting_columns(default_config, weighting)
        message = f"credit.name='{name}': reads the policy's entropy, and algorithm.rollout_correction.bypass_mode=true"
        with pytest.raises(ConfigurationError, match=message):
            require_weighting_columns(changed(default_config, **self.BYPASS), weighting)

    def test_an_influence_needs_two_answers_to_a_prompt(self, default_config: DictConfig) -> None:
        config = changed(default_config, **{"actor_rollout_ref.rollout.n": 1})
        with pytest.raises(ConfigurationError, match=r"influence': actor_rollout_ref.rollout.n=1: .* at least"):
            require_weighting_columns(config, build_weighting({"name": "influence"}))

    def test_who_does_not_read_it_does_not_mind(self, default_config: DictConfig) -> None:
        for name in ("uniform", "actfocus", "action_only"):
            require_weighting_columns(changed(default_config, **self.BYPASS), build_weighting({"name": name}))


def test_world_overrides_are_the_set_keys_of_the_world(default_config: DictConfig) -> None:
    assert world_overrides(default_config.env) == {}
    assert world_overrides(changed(default_config, **{"env.size": 5}).env) == {"size": 5}
