"""The YAML files: every group composes, and verl takes what comes out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import DictConfig, OmegaConf

from actfocus_verl.errors import ConfigurationError
from actfocus_verl.preflight.derived import fill_derived
from actfocus_verl.preflight.model import check_model
from actfocus_verl.preflight.overrides import known_names
from actfocus_verl.preflight.registered import check_registered
from tests.config.conftest import ModelFolder, changed, composed

PAPER = "experiment=paper/frozen_lake_3b"
ROLLOUT = "actor_rollout_ref.rollout"
ACTOR = "actor_rollout_ref.actor"


# Every model on every platform; every algorithm, credit and filter beside them.
COMBINATIONS = [
    "model=tiny platform=cpu algorithm=grpo credit=uniform filter=none",
    "model=tiny platform=gpu algorithm=ppo credit=actfocus filter=reward_variance",
    "model=qwen2.5-0.5b platform=cpu algorithm=ppo credit=uniform filter=reward_variance",
    "model=qwen2.5-0.5b platform=gpu algorithm=grpo credit=actfocus filter=none",
    "model=qwen2.5-1.5b platform=cpu algorithm=grpo credit=actfocus filter=reward_variance",
    "model=qwen2.5-1.5b platform=gpu algorithm=ppo credit=uniform filter=none",
    "model=qwen2.5-3b platform=cpu algorithm=ppo credit=actfocus filter=none",
    "model=qwen2.5-3b platform=gpu algorithm=grpo credit=uniform filter=reward_variance",
    "model=qwen2.5-7b platform=gpu algorithm=ppo credit=actfocus filter=none",
    "model=smollm2-135m platform=cpu algorithm=grpo credit=actfocus filter=none",
    "model=tiny platform=cpu algorithm=grpo credit=action_only credit.placebo=true filter=zero_variance",
    "model=tiny platform=cpu algorithm=ppo credit=influence filter=top_p early_stop=none",
    "model=qwen2.5-0.5b platform=gpu algorithm=grpo credit=actfocus filter=zero_variance_refill early_stop=ragen2",
    "model=tiny platform=cpu algorithm=grpo credit=aem filter=min_p",
    "model=tiny platform=cpu algorithm=ppo credit=empg credit.normalize=batch filter=soft_reweight",
    "model=tiny platform=cpu algorithm=gigpo credit=actfocus filter=none",
    "model=tiny platform=cpu algorithm=turn_grpo credit=actfocus filter=none",
    "model=tiny platform=gpu algorithm=turn_ppo credit=aem filter=none",
    "model=tiny platform=gpu algorithm=turn_ppo_ratio credit=entropy_quantile filter=none",
    "model=tiny platform=gpu algorithm=vetta credit=actfocus filter=none",
    "model=tiny platform=cpu algorithm=graphgpo credit=hindsight filter=none",
    "model=qwen2.5-0.5b platform=cpu algorithm=bilevel_gae credit=uniform filter=none",
    "model=tiny platform=cpu rollout=forked algorithm=carl credit=actfocus filter=none",
    "model=qwen2.5-0.5b platform=gpu rollout=independent algorithm=carl credit=aem filter=none",
    "model=tiny platform=cpu algorithm=igpo credit=actfocus filter=none schedule=colocate_async",
    "model=tiny platform=gpu algorithm=a2tgpo credit=aem filter=top_p schedule=separate_async",
    "model=tiny platform=cpu algorithm=ppo credit=actfocus filter=none schedule=separate_async",
    "model=tiny platform=cpu algorithm=grpo credit=uniform filter=none schedule=sync",
    "experiment=quickstart",
    PAPER,
    f"{PAPER} model=tiny platform=cpu trainer.total_training_steps=2",
    f"{PAPER} algorithm=grpo credit=uniform filter=none",
]


@pytest.mark.parametrize("overrides", COMBINATIONS)
def test_verl_takes_every_combination(overrides: str, model_folder: ModelFolder) -> None:
    """check_registered ends with verl's own dataclasses and its validate_config."""
    config = composed(*overrides.split())
    assert isinstance(config.actor_rollout_ref.actor.optim.lr, float)  # 1e-5 without a point is a string in YAML 1.1
    assert isinstance(config.critic.optim.lr, float)
    config.model.path = str(model_folder(max_position_embeddings=32768))
    config.data.max_prompt_length = 640  # the test's tokenizer knows few words
    config.data.max_response_length = 2900
    check_model(config)
    check_registered(config)


def test_the_combinations_use_every_file() -> None:
    chosen = {argument for line in COMBINATIONS for argument in line.split()}
    for group in ("rollout", "algorithm", "credit", "filter", "early_stop", "model", "platform", "schedule"):
        assert {f"{group}={name}" for name in known_names(group)} <= chosen


@pytest.fixture(scope="module")
def paper() -> DictConfig:
    return composed(PAPER)


class TestThePapersExperiment:
    """shared/paper/actfocus.md, section 3."""

    def test_groups(self, paper: DictConfig) -> None:
        assert paper.model.path == "Qwen/Qwen2.5-3B-Instruct"
        assert (paper.platform.name, paper.trainer.nnodes, paper.trainer.n_gpus_per_node) == ("gpu", 1, 4)
        assert (paper.algorithm_name, paper.algorithm.adv_estimator, paper.critic.enable) == ("ppo", "gae", True)
        assert (paper.env.name, paper.env.preset) == ("frozen_lake", "ragen")
        assert (paper.run.experiment, paper.run.dir) == (
            "paper",
            "outputs/paper/frozen_lake_3b_ppo_actfocus-seed0",
        )

    @pytest.mark.parametrize(
        ("key", "value"),
        [
            ("data.train_batch_size", 8),
            (f"{ROLLOUT}.n", 16),
            ("filter.name", "reward_variance"),
            ("filter.ratio", 0.25),
            (f"{ACTOR}.ppo_mini_batch_size", 2),
            ("critic.ppo_mini_batch_size", 2),
            ("trainer.total_training_steps", 200),
            ("trainer.test_freq", 10),
            ("trainer.val_before_train", True),
            (f"{ACTOR}.clip_ratio_low", 0.2),
            (f"{ACTOR}.clip_ratio_high", 0.28),
            (f"{ACTOR}.entropy_coeff", 0.001),
            (f"{ACTOR}.kl_loss_coef", 0.0),
            ("algorithm.use_kl_in_reward", False),
            ("algorithm.gamma", 1.0),
            ("algorithm.lam", 1.0),
            (f"{ACTOR}.optim.lr", 1e-6),
            ("critic.optim.lr", 1e-5),
            (f"{ROLLOUT}.temperature", 1.0),
            (f"{ROLLOUT}.max_model_len", 3600),
            ("env.max_turn_tokens", 400),
            ("env.max_turns", 5),
            ("env.format_penalty", -0.1),
            ("env.train_size", 1600),
            ("env.evaluation_size", 32),
            (f"{ROLLOUT}.val_kwargs.n", 16),
            (f"{ROLLOUT}.val_kwargs.temperature", 0.5),
            (f"{ROLLOUT}.tensor_model_parallel_size", 1),
            (f"{ROLLOUT}.enforce_eager", True),
            ("credit.alpha", 0.1),
            ("credit.beta", 0.5),
        ],
    )
    def test_numbers(self, paper: DictConfig, key: str, value: object) -> None:
        assert OmegaConf.select(paper, key) == value
        assert type(OmegaConf.select(paper, key)) is type(value)

    def test_an_episode_fits_the_context(self, paper: DictConfig) -> None:
        assert paper.data.max_prompt_length + paper.data.max_response_length == 3600

    def test_the_command_line_chooses_another_model_and_platform(self) -> None:
        config = composed(PAPER, "model=tiny", "platform=cpu", "trainer.total_training_steps=2")
        assert config.actor_rollout_ref.model.path is None
        assert config.tiny_policy.env == "frozen_lake"
        assert config.platform.name == "cpu"
        assert config.actor_rollout_ref.rollout.dtype == "float32"
        # the experiment's own numbers stay
        assert (config.data.train_batch_size, config.actor_rollout_ref.rollout.n, config.filter.ratio) == (8, 16, 0.25)
        assert config.trainer.total_training_steps == 2
        assert config.env.train_size == 16

    def test_the_command_line_wins_over_the_experiments_numbers(self) -> None:
        config = composed(PAPER, "filter=none", "credit=uniform", "env.evaluation_size=8")
        assert (config.filter.name, config.credit.name, config.env.evaluation_size) == ("none", "uniform", 8)


class TestPlatforms:
    @pytest.mark.parametrize("model", ["tiny", "qwen2.5-3b"])
    def test_a_cpu_computes_in_float32_whichever_the_model(self, model: str) -> None:
        config = composed(f"model={model}", "platform=cpu", "algorithm=ppo")
        parts = config.actor_rollout_ref
        for engine in (parts.actor.fsdp_config, parts.ref.fsdp_config, config.critic.fsdp):
            assert (engine.model_dtype, engine.dtype) == ("fp32", "float32")
        assert parts.rollout.dtype == "float32"
        for part in (parts.model, config.critic.model):
            assert part.override_config.attn_implementation == "packed_sdpa"
            assert part.use_remove_padding is True
        assert config.trainer.device == "cpu"
        assert config.platform.env_vars.VERL_PLATFORM == "cpu"

    def test_gpus_compute_in_bfloat16_on_float32_weights(self) -> None:
        config = composed("model=tiny", "platform=gpu", "algorithm=ppo")
        parts = config.actor_rollout_ref
        for engine in (parts.actor.fsdp_config, parts.ref.fsdp_config, config.critic.fsdp):
            assert (engine.model_dtype, engine.dtype) == ("fp32", "bfloat16")
        for part in (parts.model, config.critic.model):
            assert "attn_implementation" not in part.override_config  # verl's default, flash attention
            assert part.use_remove_padding is True
        assert config.trainer.device == "cuda"
        assert config.platform.env_vars.VERL_PLATFORM == "nvidia"


def test_model_path_is_the_short_name_of_verls_key() -> None:
    config = composed("model=tiny", "model.path=org/name", "algorithm=ppo")
    assert config.actor_rollout_ref.model.path == "org/name"
    assert config.critic.model.path == "org/name"
    assert config.critic.model.tokenizer_path == "org/name"


def test_an_experiment_sets_nothing_that_belongs_to_a_platform() -> None:
    """Else `platform=cpu` on the command line would not be one."""
    of_the_experiment, without = (
        OmegaConf.to_container(composed(*arguments, "model=tiny", "platform=cpu", "algorithm=ppo"), resolve=False)
        for arguments in ([PAPER], [])
    )
    for key in ("platform", "ray_kwargs", "transfer_queue", "reward"):
        assert of_the_experiment[key] == without[key]
    for key in ("device", "nnodes", "n_gpus_per_node"):
        assert of_the_experiment["trainer"][key] == without["trainer"][key]


class TestRegistered:
    @pytest.fixture
    def refused(self, model_folder: ModelFolder, default_config: DictConfig) -> Callable[..., str]:
        folder: Path = model_folder()

        def run(**values: object) -> str:
            config = changed(default_config, **{"model.path": str(folder)}, **values)
            fill_derived(config)
            with pytest.raises(ConfigurationError) as caught:
                check_registered(config)
            assert "\n" not in str(caught.value)
            return str(caught.value)

        return run

    @pytest.mark.parametrize(
        ("values", "message"),
        [
            (
                {"algorithm.adv_estimator": "gpro"},
                "algorithm.adv_estimator='gpro': is not registered with verl. Choose one of: ",
            ),
            ({"algorithm.adv_estimator": "gpro"}, "gae, gdpo, gigpo, gpg, graphgpo, grpo"),
            (
                {f"{ACTOR}.policy_loss.loss_mode": "weighted"},
                f"{ACTOR}.policy_loss.loss_mode='weighted': is not registered",
            ),
            ({f"{ACTOR}.policy_loss.loss_mode": "weighted"}, "token_weighted"),
            ({"trainer.v1.trainer_mode": "async"}, "trainer.v1.trainer_mode='async': is not registered with verl"),
            ({"trainer.v1.trainer_mode": "async"}, "actfocus_sync"),
            (
                {"trainer.v1.trainer_mode": "sync"},
                f"trainer.v1.trainer_mode='sync': verl's own trainer ignores {ACTOR}.policy_loss.loss_mode="
                "token_weighted. Set trainer.v1.trainer_mode=actfocus_sync",
            ),
            (
                {"trainer.v1.trainer_mode": "sync", f"{ACTOR}.policy_loss.loss_mode": "vanilla"},
                "trainer.v1.trainer_mode='sync': verl's own trainer ignores credit.name=actfocus.",
            ),
            (
                {
                    "trainer.v1.trainer_mode": "sync",
                    f"{ACTOR}.policy_loss.loss_mode": "vanilla",
                    "credit": {"name": "uniform"},
                    "algorithm.adv_estimator": "gigpo",
                },
                "trainer.v1.trainer_mode='sync': verl's own trainer does not pass on the columns that "
                "algorithm.adv_estimator=gigpo reads. Set trainer.v1.trainer_mode=actfocus_sync",
            ),
            ({f"{ACTOR}.policy_loss.foo": 1}, f"{ACTOR}.policy_loss.foo=1: is not a key of verl. Remove"),
            ({f"{ACTOR}.foo": 1}, f"{ACTOR}.foo=1: is not a key of verl. Remove {ACTOR}.foo"),
            ({f"{ROLLOUT}.agents": 1}, f"{ROLLOUT}.agents=1: is not a key of verl."),
            (
                {f"{ACTOR}.loss_agg_mode": "mean"},
                f"{ACTOR}='...': verl rejects it: Invalid loss_agg_mode: mean. Correct",
            ),
        ],
    )
    def test_a_mistake_is_one_line(self, refused: Callable[..., str], values: dict[str, object], message: str) -> None:
        assert message in refused(**values)

    def test_verls_validation_is_one_line_too(self, refused: Callable[..., str]) -> None:
        values = {f"{ACTOR}.use_dynamic_bsz": False, f"{ACTOR}.ppo_micro_batch_size_per_gpu": 1}
        values |= {
            f"{ROLLOUT}.log_prob_micro_batch_size_per_gpu": 1,
            "actor_rollout_ref.ref.log_prob_micro_batch_size": 1,
        }
        message = refused(**values, **{"actor_rollout_ref.ref.log_prob_micro_batch_size_per_gpu": 1})
        assert "verl rejects it: [actor_rollout_ref.ref] You have set both" in message

    def test_it_prints_nothing(
        self, model_folder: ModelFolder, default_config: DictConfig, capsys: pytest.CaptureFixture[str]
    ) -> None:
        config = changed(default_config, **{"model.path": str(model_folder())})
        fill_derived(config)
        check_registered(config)
        assert capsys.readouterr().out == ""


@pytest.mark.parametrize("algorithm", ["grpo", "ppo"])
def test_a_7b_actor_leaves_the_gpu_when_a_critic_wants_it(algorithm: str) -> None:
    """16 bytes a parameter twice do not fit beside a server; once they do."""
    config = composed("model=qwen2.5-7b", "platform=gpu", f"algorithm={algorithm}")
    actor, critic = config.actor_rollout_ref.actor.fsdp_config, config.critic.fsdp
    assert actor.param_offload is actor.optimizer_offload is (algorithm == "ppo")
    assert critic.param_offload is critic.optimizer_offload is True
    assert (actor.model_dtype, critic.model_dtype) == ("fp32", "fp32")  # the platform's, which comes later


@pytest.mark.parametrize("platform", ["gpu", "cpu"])
def test_a_gpu_decodes_with_cuda_graphs(platform: str) -> None:
    """Eager decoding is the paper's choice and the CPU's need, not that of every user of a GPU."""
    assert composed(f"platform={platform}").actor_rollout_ref.rollout.enforce_eager is (platform == "cpu")
