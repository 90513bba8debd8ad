"""A command of verl's own with the lines that docs/use_with_your_verl_run.md adds: what it composes. No Ray."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, open_dict
from verl.trainer import main_ppo
from verl.trainer.ppo.v1 import get_trainer_cls

from actfocus_verl.config import action_span
from actfocus_verl.errors import ConfigurationError
from actfocus_verl.integration.async_trainers import TokenCreditTrainerColocateAsync
from actfocus_verl.integration.half_chosen import LOSS, install, require_our_trainer
from actfocus_verl.integration.trainer import TokenCreditTrainerSync
from actfocus_verl.preflight.overrides import known_names
from actfocus_verl.rollout.spans import TOOL_CALLS
from actfocus_verl.train import verl_config_folder
from tests.helpers.tool_policy import ADDED

SEARCH_PATH = ADDED[0]
OUR_TRAINER = "trainer.v1.trainer_mode=actfocus_sync"
VERLS = "trainer.v1.trainer_mode=sync"


@cache
def composed(*overrides: str) -> DictConfig:
    return verls_command(*overrides)


def verls_command(*overrides: str) -> DictConfig:
    """What `python -m verl.trainer.main_ppo <overrides>` composes."""
    searchpath = [word for word in overrides if word.startswith("hydra.")]
    with initialize_config_dir(str(verl_config_folder()), version_base=None):
        return compose("ppo_trainer", overrides=[*searchpath, *(word for word in overrides if word not in searchpath)])


def test_the_lines_to_add_to_verls_command_compose() -> None:
    config = verls_command(*ADDED)
    assert config.credit.alpha == 0.1
    assert (config.actor_rollout_ref.actor.use_kl_loss, config.actor_rollout_ref.actor.kl_loss_coef) == (True, 0.0)
    assert action_span(config) == TOOL_CALLS["hermes"]
    trainer = get_trainer_cls(config.trainer.v1.trainer_mode)(config)  # as verl's task runner makes it
    assert isinstance(trainer, TokenCreditTrainerSync)
    assert config.actor_rollout_ref.actor.policy_loss.loss_mode == "vanilla"  # weighted as any: test_losses.py
    assert trainer.weighting.name == "actfocus"
    assert trainer.group_filter.name == "none"
    assert trainer.trainer_mode == "sync"
    assert trainer.run_log.folder is None  # no run section: nothing is written
    trainer.run_log.continue_from(0)
    trainer.run_log.metrics({"a": 1}, step=1)
    trainer.run_log.evaluations(["sums"], ["u"], {"reward": [1.0]}, step=1)


def test_the_page_has_these_lines() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "use_with_your_verl_run.md").read_text(encoding="utf-8")
    block = page.partition("```bash\n")[2].partition("```")[0]
    words = [line.strip(" \\'") for line in block.splitlines()]
    assert tuple(words[1:]) == ADDED
    assert {f"`{name}`" for name in TOOL_CALLS} <= set(page.replace(",", " ").split())


def test_our_other_groups_compose_with_verls_command_and_its_own_values_win() -> None:
    mine = ("actor_rollout_ref.actor.kl_loss_coef=0.02", *ADDED, "+filter=reward_variance", "+algorithm=gigpo")
    config = verls_command(*mine)
    trainer = TokenCreditTrainerSync(config)
    assert config.actor_rollout_ref.actor.kl_loss_coef == 0.02
    assert trainer.group_filter.name == "reward_variance"
    assert trainer.estimator is not None
    assert trainer.estimator.name == "gigpo"


def test_without_our_groups_the_keys_do() -> None:
    config = verls_command("+credit={name: entropy_quantile, fraction: 0.5}", OUR_TRAINER)
    trainer = TokenCreditTrainerSync(config)
    assert (trainer.weighting.name, trainer.action_span) == ("entropy_quantile", None)


def test_verls_command_without_a_credit_is_told_so() -> None:
    with pytest.raises(ConfigurationError, match=r"credit.name=None: is missing. Choose one of actfocus, action_only"):
        TokenCreditTrainerSync(verls_command(OUR_TRAINER))


@pytest.mark.parametrize("credit", known_names("credit"))
def test_choosing_a_credit_chooses_the_trainer(credit: str) -> None:
    assert composed(SEARCH_PATH, f"+credit={credit}").trainer.v1.trainer_mode == "actfocus_sync"


def test_an_asynchronous_trainer_on_the_command_line_is_ours_as_well() -> None:
    mode = "trainer.v1.trainer_mode=actfocus_colocate_async"
    config = composed(SEARCH_PATH, "+credit=uniform", mode)
    assert get_trainer_cls(config.trainer.v1.trainer_mode) is TokenCreditTrainerColocateAsync
    require_our_trainer(config)
    scheduled = composed(SEARCH_PATH, "+credit=actfocus", "+schedule=colocate_async")
    assert scheduled.trainer.v1.trainer_mode == "actfocus_colocate_async"
    assert scheduled.trainer.v1.colocate_async.num_warmup_batches == 0.5


def test_a_trainer_on_the_command_line_wins() -> None:
    assert verls_command(SEARCH_PATH, VERLS, "+credit=uniform").trainer.v1.trainer_mode == "sync"


# Half chosen: settings of ours beside a trainer of verl's own

SYNC = "trainer.v1.trainer_mode='sync': verl's own trainer "
ADD_A_CREDIT = "Add +credit=uniform, or another credit, which chooses trainer.v1.trainer_mode=actfocus_sync"


def validate(words: list[str]) -> None:
    """What verl's command does first, before Ray starts. Keys that it has are set where groups are composed already."""
    keys = [word for word in words if "." in word.partition("=")[0]]
    config = composed(SEARCH_PATH, *(word for word in words if word not in keys)).copy()
    with open_dict(config):
        config.merge_with_dotlist([key.removeprefix("+") for key in keys])
    main_ppo.validate_config(config=config, use_reference_policy=True, use_critic=False)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["+credit=actfocus", VERLS], f"{SYNC}ignores credit.name=actfocus. Set {OUR_TRAINER}"),
        (["+credit={name: entropy_quantile}"], f"{SYNC}ignores credit.name=entropy_quantile. Set {OUR_TRAINER}"),
        (["+filter=reward_variance"], f"{SYNC}ignores filter.name=reward_variance. {ADD_A_CREDIT}"),
        (["+early_stop=ragen2"], f"{SYNC}ignores early_stop.name=ragen2. {ADD_A_CREDIT}"),
        (["+run.diagnose=true"], f"{SYNC}ignores run.diagnose=True. {ADD_A_CREDIT}"),
        (["+algorithm=gigpo"], f"{SYNC}does not pass on the columns that algorithm.adv_estimator=gigpo reads. "),
        (["algorithm.adv_estimator=carl"], f"{SYNC}does not pass on the columns that algorithm.adv_estimator=carl"),
        ([f"{LOSS}=token_weighted"], f"{SYNC}ignores {LOSS}=token_weighted. {ADD_A_CREDIT}"),
        (
            ["+credit=actfocus", "trainer.v1.trainer_mode=colocate_async"],
            f"{SYNC.replace('sync', 'colocate_async')}ignores credit.name=actfocus. Set "
            "trainer.v1.trainer_mode=actfocus_colocate_async",
        ),
        (
            ["+credit=actfocus", "trainer.use_v1=false"],
            f"trainer.use_v1=False: verl's own trainer ignores credit.name=actfocus. Set {OUR_TRAINER} trainer.use_v1",
        ),
    ],
)
def test_what_verls_own_trainer_would_ignore_is_an_error_before_ray(words: list[str], message: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        validate(words)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["+filter=none", "+early_stop=none", "+run.diagnose=false"],
        ["+filter=zero_variance_refill"],  # verl's own
        ["+credit=uniform", VERLS],
        ["+credit=actfocus", "+filter=reward_variance", "+algorithm=gigpo"],
    ],
)
def test_what_takes_effect_passes(words: list[str]) -> None:
    validate([*words, "actor_rollout_ref.actor.use_dynamic_bsz=true"])


def test_verls_function_is_wrapped_once() -> None:
    from verl.utils import config as verls

    assert main_ppo.validate_config is verls.validate_config
    before = verls.validate_config
    install(verls)
    assert verls.validate_config is before
