"""The smallest run over two nodes of one slot each."""

from __future__ import annotations

CPU_NODE = "--num-cpus=8 --num-gpus=1 --object-store-memory=100000000"
"""Words of `ray start`: logical slots, as on a machine without GPUs."""

TINY = (
    "model=tiny",
    "platform=cpu",
    "trainer.nnodes=2",
    "trainer.n_gpus_per_node=1",
    "data.train_batch_size=4",
    "actor_rollout_ref.rollout.n=2",
    "actor_rollout_ref.actor.ppo_mini_batch_size=4",
    "env.evaluation_size=8",
    "env.train_size=32",
    "trainer.total_training_steps=3",
    "trainer.test_freq=-1",
    "trainer.val_before_train=false",
    "trainer.save_freq=1",
    "trainer.logger=[console]",
    "run.rollouts_every=1",
    "run.rollouts_a_step=4",
    "actor_rollout_ref.rollout.max_num_seqs=16",
    "actor_rollout_ref.rollout.engine_kwargs.vllm.kv_cache_memory_bytes=67108864",
)
