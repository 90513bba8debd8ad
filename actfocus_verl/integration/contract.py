"""Everything this package uses of verl, TransferQueue and (through verl's rollout) vLLM, by name.

An upgrade of verl that moves one of these names fails in `check_contract`, with a list a person can read, before it
fails in the middle of a run. A test compares the list with the package's own imports, so it cannot go stale.

`SYMBOLS` are used wherever the package runs. `CPU_ROLLOUT_SYMBOLS` are used by the vLLM server on the CPU platform
only, `EVALUATION_SYMBOLS` by `evaluate` with a model of its own; checking either imports vLLM. This module itself
imports verl only when a check runs.
"""

from __future__ import annotations

import importlib.metadata
import os
from collections.abc import Iterable
from typing import Final

from packaging.specifiers import SpecifierSet

from actfocus_verl.symbols import Symbol, check_symbol

SUPPORTED_VERL: Final = ">=0.9.1,<0.10"


def _overridden(path: str, *parameters: str) -> Symbol:
    return Symbol(path, parameters, exact=True)


_TRAINER: Final = "verl.trainer.ppo.v1.trainer_sync:PPOTrainerSync"
_COLOCATE: Final = "verl.trainer.ppo.v1.trainer_colocate_async:PPOTrainerColocateAsync"
_SEPARATE: Final = "verl.trainer.ppo.v1.trainer_separate_async:PPOTrainerSeparateAsync"
_LM_ENGINE: Final = "verl.workers.engine.fsdp.transformer_impl:FSDPEngineWithLMHead"
_VALUE_ENGINE: Final = "verl.workers.engine.fsdp.transformer_impl:FSDPEngineWithValueHead"
_AGENT_LOOP: Final = "verl.experimental.agent_loop.agent_loop"
_EXTENSION: Final = "verl.workers.rollout.vllm_rollout.utils:vLLMColocateWorkerExtension"

_REGISTRIES: Final = (
    Symbol("verl.plugin.platform:PlatformRegistry"),
    Symbol("verl.plugin.platform:PlatformRegistry.register", ("platform",)),
    Symbol("verl.plugin.platform:PlatformRegistry.get", ("name",)),
    Symbol("verl.workers.rollout.replica:RolloutReplicaRegistry"),
    Symbol("verl.workers.rollout.replica:RolloutReplicaRegistry.register", ("name", "loader")),
    Symbol("verl.workers.rollout.replica:RolloutReplicaRegistry._registry"),
    Symbol("verl.utils.device:get_device_id"),
    Symbol("verl.utils.device:get_device_name"),
    Symbol("verl.workers.engine:EngineRegistry"),
    Symbol("verl.workers.engine:EngineRegistry.register", keywords=("model_type", "backend", "device", "vendor")),
    Symbol("verl.workers.engine:EngineRegistry._engines"),
    Symbol("verl.workers.engine:EngineRegistry.get_engine_cls", ("model_type", "backend")),
    Symbol("verl.trainer.ppo.core_algos:register_policy_loss", ("name",)),
    Symbol("verl.trainer.ppo.core_algos:POLICY_LOSS_REGISTRY"),
    Symbol("verl.trainer.ppo.core_algos:ADV_ESTIMATOR_REGISTRY"),
    Symbol("verl.trainer.ppo.core_algos:register_adv_est", ("name_or_enum",)),
    Symbol("verl.trainer.ppo.core_algos:AdvantageEstimator"),
    Symbol("verl.trainer.ppo.v1.trainer_base:register_trainer", ("name",)),
    Symbol("verl.trainer.ppo.v1.trainer_base:TRAINER_REGISTRY"),
    Symbol(f"{_AGENT_LOOP}:register", ("agent_name",)),
    Symbol(f"{_AGENT_LOOP}:_agent_loop_registry"),
)

_TRAINERS: Final = (
    Symbol(
        _TRAINER,
        ("config",),
        attributes=("config", "trainer_mode", "global_steps", "tokenizer", "use_reference_policy", "actor_rollout_wg"),
    ),
    _overridden(f"{_TRAINER}.__init__", "config"),
    _overridden(f"{_TRAINER}._build_replay_buffer"),
    _overridden(f"{_TRAINER}._setup"),
    _overridden(f"{_TRAINER}.get_reward_handles"),
    # called by verl's agent loops: handle.compute_score.remote(data)
    Symbol("verl.experimental.reward_loop.reward_loop:RewardLoopWorker.compute_score", ("data",)),
    _overridden(f"{_TRAINER}.on_init_end"),
    _overridden(f"{_TRAINER}.step", "metrics", "timing_raw"),
    _overridden(f"{_TRAINER}.on_step_begin"),
    _overridden(f"{_TRAINER}.on_step_end"),
    Symbol(f"{_TRAINER}._balance_batch", ("batch", "metrics")),
    _overridden(f"{_TRAINER}._compute_old_log_prob", "batch", "metrics"),
    Symbol("verl.workers.engine_workers:ActorRolloutRefWorker.compute_log_prob", ("data",)),
    _overridden(f"{_TRAINER}._compute_ref_log_prob", "batch", "metrics"),
    _overridden(f"{_TRAINER}._compute_advantage", "batch", "metrics"),
    _overridden(f"{_TRAINER}._update_actor", "batch", "metrics"),
    Symbol(f"{_TRAINER}._compute_metrics", ("batch", "metrics", "timing_raw"), keywords=("global_steps", "epoch")),
    Symbol(
        f"{_TRAINER}._val_metrics_update",
        ("data_sources", "sample_uids", "reward_extra_infos_dict"),
        keywords=("sample_turns",),
    ),
    Symbol("verl.trainer.ppo.v1.replay_buffer:ReplayBuffer", attributes=("poll_interval", "sample")),
    Symbol("verl.workers.engine_workers:ActorRolloutRefWorker.set_loss_fn", ("loss_fn",)),
    Symbol("verl.single_controller.base.worker_group:WorkerGroup", attributes=("_dispatch_info",)),
    Symbol("verl.trainer.distillation:is_distillation_enabled", ("config",)),
    Symbol("verl.trainer.main_ppo:run_ppo", ("config",), keywords=("task_runner_class",)),
    Symbol("verl.trainer.main_ppo:TaskRunnerV1"),
    Symbol("verl.trainer.ppo.utils:need_critic", ("config",)),
    Symbol("verl.trainer.ppo.utils:need_reference_policy", ("config",)),
    # Called and, by position or name of its first argument, wrapped.
    Symbol("verl.utils.config:validate_config", ("config",), keywords=("use_reference_policy", "use_critic")),
    Symbol("verl.utils.config:omega_conf_to_dataclass", ("config",)),
)

_SCHEDULES: Final = (
    Symbol(_COLOCATE, ("config",), attributes=("checkpoint_manager", "replay_buffer")),
    _overridden(f"{_COLOCATE}.on_sample_end"),
    Symbol(_SEPARATE, ("config",), attributes=("local_trigger_step", "role_worker_mapping", "parameter_sync_step")),
    _overridden(f"{_SEPARATE}._init_resource_pool_mgr"),
    _overridden(f"{_SEPARATE}._compute_old_log_prob", "batch", "metrics"),
    _overridden(f"{_SEPARATE}.on_sample_end"),
    _overridden(f"{_SEPARATE}.step", "metrics", "timing_raw"),
    _overridden(f"{_SEPARATE}._step_once", "metrics", "timing_raw", "sample_batch_size"),
    Symbol("verl.trainer.ppo.utils:Role", attributes=("Actor", "ActorRolloutRef", "ActorRollout", "RefPolicy")),
    Symbol("verl.trainer.ppo.v1.replay_buffer:ReplayBufferAsync", attributes=("poll_interval", "sample")),
    _overridden(
        "verl.trainer.ppo.v1.replay_buffer:ReplayBufferAsync._evict_terminal_groups",
        *("global_steps", "partition_id", "eviction_reasons"),
    ),
    # Joins what verl logs in a local update; ours are joined by themselves.
    Symbol("verl.trainer.ppo.v1.utils:MetricsAggregator.add_step_metrics", ("metrics", "sample_count")),
)

_WEIGHT_TRANSPORT: Final = (
    Symbol("verl.experimental.separation.engine_workers:DetachActorWorker"),
    Symbol("verl.experimental.separation.engine_workers:DetachActorWorker.copy_handler"),
    Symbol("verl.checkpoint_engine:CheckpointEngineRegistry.register", ("backend",)),
    Symbol("verl.checkpoint_engine:CheckpointEngine"),
    _overridden("verl.checkpoint_engine:CheckpointEngine.prepare"),
    _overridden(
        "verl.checkpoint_engine:CheckpointEngine.build_topology",
        *("actor_wg_world_size", "rollout_world_size", "metadata"),
    ),
    Symbol("verl.checkpoint_engine:CheckpointEngine.init_process_group", ("kwargs",)),
    _overridden("verl.checkpoint_engine:CheckpointEngine.finalize"),
    _overridden("verl.checkpoint_engine:CheckpointEngine.send_weights", "weights", "global_steps"),
    _overridden("verl.checkpoint_engine:CheckpointEngine.receive_weights", "global_steps"),
)

_ESTIMATORS: Final = (
    Symbol(
        "verl.trainer.ppo.core_algos:compute_grpo_outcome_advantage",
        ("token_level_rewards", "response_mask", "index"),
        keywords=("norm_adv_by_std_in_grpo",),
    ),
    # Calls a registered estimator, by keyword: token_level_rewards, response_mask, config, index.
    Symbol("verl.trainer.ppo.ray_trainer:compute_advantage", keywords=("data", "adv_estimator", "config")),
)

_LOSS: Final = (
    _overridden("verl.workers.utils.losses:ppo_loss", "config", "model_output", "data", "dp_group"),
    Symbol(
        "verl.trainer.ppo.core_algos:compute_policy_loss_vanilla",
        (
            *("old_log_prob", "log_prob", "advantages", "response_mask"),
            *("loss_agg_mode", "config", "rollout_is_weights"),
        ),
    ),
    Symbol(
        "verl.trainer.ppo.core_algos:agg_loss",
        ("loss_mat", "loss_mask", "loss_agg_mode"),
        keywords=("dp_size", "batch_num_tokens", "global_batch_size", "loss_scale_factor"),
    ),
    Symbol("verl.utils.torch_functional:masked_mean", ("values", "mask")),
    Symbol("verl.workers.config:ActorConfig"),
    Symbol("verl.workers.utils.padding:response_from_nested", ("tensor", "response_mask")),
    Symbol("verl.workers.utils.padding:response_to_nested", ("tensor", "response_mask")),
)

_ENGINES: Final = (
    Symbol(_LM_ENGINE, attributes=("checkpoint_manager", "engine_config", "model_config", "module")),
    _overridden(f"{_LM_ENGINE}.forward_step", "micro_batch", "loss_function", "forward_only"),
    _overridden(f"{_LM_ENGINE}.prepare_model_outputs", "output", "output_args", "micro_batch", "logits_processor_func"),
    Symbol(f"{_LM_ENGINE}._gather_and_unpad_packed", ("tensor", "pad_size")),
    _overridden(f"{_LM_ENGINE}._build_fsdp_module", "module"),
    _overridden(f"{_LM_ENGINE}._build_module"),
    Symbol(
        f"{_LM_ENGINE}.save_checkpoint",
        ("local_path", "hdfs_path", "global_step", "max_ckpt_to_keep"),
    ),
    Symbol(f"{_LM_ENGINE}.load_checkpoint", ("local_path",)),
    Symbol(
        "verl.utils.checkpoint.checkpoint_manager:BaseCheckpointManager",
        attributes=("previous_saved_paths", "ensure_checkpoint_capacity", "register_checkpoint"),
    ),
    Symbol(_VALUE_ENGINE),
    _overridden(f"{_VALUE_ENGINE}._build_module"),
    Symbol("verl.utils.tensordict_utils:get_non_tensor_data", keywords=("data", "key", "default")),
    Symbol("verl.utils.torch_dtypes:PrecisionType.to_dtype", ("precision",)),
    Symbol("verl.workers.config:FSDPEngineConfig", keywords=("forward_only", "model_dtype")),
    Symbol(
        "verl.workers.config:HFModelConfig",
        attributes=("hf_config", "local_path", "trust_remote_code", "enable_gradient_checkpointing"),
    ),
)

_MERGER: Final = (
    Symbol(
        "verl.model_merger.base_model_merger:ModelMergerConfig",
        keywords=("operation", "backend", "local_dir", "target_dir", "hf_model_config_path"),
    ),
    Symbol("verl.model_merger.fsdp_model_merger:FSDPModelMerger", ("config",), attributes=("model_config",)),
    Symbol("verl.model_merger.fsdp_model_merger:FSDPModelMerger.merge_and_save"),
    _overridden(
        "verl.model_merger.fsdp_model_merger:FSDPModelMerger._load_and_merge_state_dicts",
        *("world_size", "total_shards", "mesh_shape", "mesh_dim_names"),
    ),
    _overridden("verl.model_merger.fsdp_model_merger:FSDPModelMerger.save_hf_model_and_tokenizer", "state_dict"),
    Symbol("verl.model_merger.fsdp_model_merger:FSDPModelMerger._merge_by_placement", ("tensors", "placement")),
    Symbol("verl.model_merger.fsdp_model_merger:FSDPModelMerger._load_lora_train_meta"),
    Symbol("verl.model_merger.fsdp_model_merger:FSDPModelMerger.get_transformers_auto_model_class"),
    Symbol("verl.model_merger.fsdp_model_merger:merge_non_dtensor_shards", ("key", "shards")),
)

_AGENT_LOOPS: Final = (
    Symbol("verl.experimental.agent_loop:AgentLoopWorker", attributes=("config", "llm_client")),
    Symbol(
        "verl.experimental.agent_loop:AgentLoopWorker._run_agent_loop",
        ("sampling_params", "trajectory"),
        keywords=("agent_name",),
    ),
    Symbol(
        "verl.experimental.agent_loop:AgentLoopBase",
        attributes=("config", "data_config", "rollout_config", "server_manager", "tokenizer"),
    ),
    Symbol("verl.experimental.agent_loop:AgentLoopBase.run", ("sampling_params",), keywords=("kwargs",)),
    Symbol(
        "verl.experimental.agent_loop:AgentLoopOutput",
        keywords=(
            *("prompt_ids", "response_ids", "response_mask", "response_logprobs"),
            *("reward_score", "num_turns", "metrics", "extra_fields"),
        ),
    ),
    _overridden("verl.experimental.agent_loop:AgentLoopOutput.as_dict"),
    Symbol("verl.experimental.agent_loop.tool_parser:ToolParser.get_tool_parser", ("name", "tokenizer")),
    Symbol("verl.experimental.agent_loop.tool_parser:ToolParser.extract_tool_calls", ("responses_ids", "tools")),
    Symbol("verl.experimental.agent_loop.tool_parser:ToolParser._registry"),
    Symbol("verl.tools.schemas:OpenAIFunctionToolSchema"),
    Symbol(f"{_AGENT_LOOP}:AgentLoopMetrics", keywords=("generate_sequences",)),
    Symbol(
        "verl.workers.rollout.llm_server:LLMServerClient.generate",
        keywords=("request_id", "prompt_ids", "sampling_params"),
    ),
    Symbol(
        "verl.workers.rollout.replica:TokenOutput",
        keywords=("token_ids", "log_probs", "stop_reason", "extra_fields"),
    ),
)

_TRANSFER_QUEUE: Final = (
    Symbol("transfer_queue:kv_batch_get", keywords=("keys", "partition_id", "select_fields")),
    Symbol("transfer_queue:kv_batch_put", keywords=("keys", "partition_id", "fields", "tags")),
    Symbol("verl.utils.tensordict_utils:list_of_dict_to_tensordict", ("list_of_dicts",)),
    Symbol("transfer_queue:kv_clear", keywords=("keys", "partition_id")),
    Symbol("transfer_queue:KVBatchMeta", keywords=("keys", "tags", "partition_id", "fields", "extra_info")),
    Symbol("transfer_queue:KVBatchMeta.select_keys", ("keys_to_select",)),
)

_PLATFORM: Final = (
    Symbol("verl.plugin.platform:PlatformBase"),
    Symbol("verl.utils.distributed:initialize_global_process_group_ray", keywords=("timeout_second", "backend")),
)

SYMBOLS: Final = (
    *(*_REGISTRIES, *_TRAINERS, *_SCHEDULES, *_WEIGHT_TRANSPORT, *_ESTIMATORS, *_LOSS, *_ENGINES),
    *(*_MERGER, *_AGENT_LOOPS, *_TRANSFER_QUEUE, *_PLATFORM),
)
"""What the package uses wherever it runs."""

EVALUATION_SYMBOLS: Final = (
    Symbol("vllm:SamplingParams"),
    Symbol("vllm.sampling_params:RequestOutputKind"),
    Symbol("vllm.sampling_params:RequestOutputKind.FINAL_ONLY"),
    Symbol("vllm.engine.arg_utils:AsyncEngineArgs"),
    Symbol("vllm.v1.engine.async_llm:AsyncLLM.from_engine_args", ("engine_args",)),
    Symbol("vllm.v1.engine.async_llm:AsyncLLM"),
    Symbol("vllm.v1.engine.async_llm:AsyncLLM.generate", ("prompt", "sampling_params", "request_id")),
    Symbol("vllm.entrypoints.cli.main:main"),
    Symbol("vllm.v1.engine.exceptions:EngineDeadError"),
    Symbol("vllm.v1.engine.exceptions:EngineGenerateError"),
)

CPU_ROLLOUT_SYMBOLS: Final = (
    Symbol(_EXTENSION, attributes=("device",)),
    Symbol(f"{_EXTENSION}.__new__", keywords=("kwargs",)),
    _overridden(f"{_EXTENSION}.update_weights_from_ipc", "peft_config", "base_sync_done", "use_shm"),
    Symbol(f"{_EXTENSION}._update_weights", ("weights",), keywords=("peft_config", "base_sync_done")),
    Symbol(f"{_EXTENSION}._iter_all_models_with_config"),
    Symbol(f"{_EXTENSION}._get_zmq_handle"),
    Symbol(
        "verl.workers.rollout.vllm_rollout.bucketed_weight_transfer:BucketedWeightReceiver",
        keywords=("zmq_handle", "device", "use_shm"),
    ),
    Symbol(
        "verl.workers.rollout.vllm_rollout.bucketed_weight_transfer:BucketedWeightReceiver.receive_weights",
        keywords=("on_bucket_received",),
    ),
    Symbol("verl.workers.rollout.vllm_rollout.vllm_async_server:vLLMHttpServer"),
    _overridden("verl.workers.rollout.vllm_rollout.vllm_async_server:vLLMHttpServer._get_worker_extension_cls"),
    Symbol("verl.workers.rollout.vllm_rollout.vllm_async_server:vLLMReplica", attributes=("server_class",)),
    Symbol("vllm._custom_ops:_supports_onednn"),
    Symbol("vllm.model_executor.model_loader.reload:initialize_layerwise_reload", ("model",)),
    Symbol("vllm.model_executor.model_loader.reload:finalize_layerwise_reload"),
    # what it passes its arguments to
    Symbol(
        "vllm.model_executor.model_loader.reload.layerwise:finalize_layerwise_processing", ("model", "model_config")
    ),
)
"""What the vLLM server on the CPU platform uses besides (actfocus_verl.platforms.vllm_cpu)."""


def check_contract(symbols: Iterable[Symbol] | None = None) -> list[str]:
    """Return the problems of the installed verl, one line per problem; empty when there are none.

    Args:
        symbols: what to check; by default `SYMBOLS`, and on the CPU platform (`VERL_PLATFORM=cpu`) also
            `CPU_ROLLOUT_SYMBOLS`.
    """
    if symbols is None:
        on_cpu = os.environ.get("VERL_PLATFORM", "").strip().lower() == "cpu"
        symbols = (*SYMBOLS, *(CPU_ROLLOUT_SYMBOLS if on_cpu else ()))
    problems = check_version()
    for symbol in symbols:
        problems += check_symbol(symbol)
    return problems


def check_version(supported: str = SUPPORTED_VERL) -> list[str]:
    """Return the problem with the installed verl's version, if there is one."""
    try:
        version = importlib.metadata.version("verl")
    except importlib.metadata.PackageNotFoundError:
        return [f"verl is not installed; install verl{supported}"]
    if SpecifierSet(supported).contains(version, prereleases=True):
        return []
    return [f"verl {version} is outside the supported range; install verl{supported}"]
