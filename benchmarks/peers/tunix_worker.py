"""One GRPO step of Tunix, for `compare.py`: its own learner, with one batch per step.

Tunix samples in one compiled loop until all rows have sampled the end token, so it runs
until the longest row ends. Lengths are imposed on the logits inside that loop, so
stopping, truncation and masking are Tunix's own. It truncates a row before its end
token, which therefore follows the last token that counts.
"""

import json
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from protocol import arguments, reward, Steps, Workload
from tunix.generate import sampler
from tunix.models.llama3 import model as llama, params as llama_params
from tunix.models.qwen2 import model as qwen2, params as qwen2_params
from tunix.rl.grpo.grpo_learner import GRPOConfig, GRPOLearner
from tunix.rl.rl_cluster import ClusterConfig, RLCluster, RLTrainingConfig, Role
from tunix.rl.rollout.base_rollout import RolloutConfig


# The best found on two CPU cores. Packing rows (`max_seq_token_per_tpu`) is left out:
# without the TPU's attention kernel its mask is not causal.
SETTINGS = {
    # Of activations and cache; the weights are float32. Tunix's Llama has float32 only.
    "dtype": "float32",
    # Prompts in a forward and backward pass; gradients add up to one update. 1 takes as
    # long and less memory; all 8 take longer and twice the memory.
    "micro_batch": 2,
    # Columns of the cache, all of which are attended to at every token: the exact
    # length when null.
    "cache": None,
    # Devices that the batch and the weights are cut over (Tunix's `fsdp`); a CPU counts
    # as as many as that takes.
    "devices": 1,
}


def load_model(workload: Workload, dtype: str, mesh: jax.sharding.Mesh) -> nnx.Module:
    config = json.loads((Path(workload.model) / "config.json").read_text())
    sizes = {
        "num_layers": config["num_hidden_layers"],
        "vocab_size": config["vocab_size"],
        "embed_dim": config["hidden_size"],
        "hidden_dim": config["intermediate_size"],
        "num_heads": config["num_attention_heads"],
        "head_dim": config["head_dim"],
        "num_kv_heads": config["num_key_value_heads"],
        "rope_theta": config["rope_theta"],
        "norm_eps": config["rms_norm_eps"],
    }
    tied = config["tie_word_embeddings"]
    if config["model_type"] == "qwen2":
        model = qwen2.ModelConfig(
            **sizes, use_tied_embedding=tied, dtype=jnp.dtype(dtype)
        )
        create = qwen2_params.create_model_from_safe_tensors
    elif config["model_type"] == "llama" and dtype == "float32":
        # Tunix 0.1.7 turns every Llama by a theta of 1,000,000, whatever is said here:
        # other logits than the model's, for the same work.
        model = llama.ModelConfig(**sizes, weight_tying=tied)
        create = llama_params.create_model_from_safe_tensors
    else:
        raise ValueError(
            "This worker knows Qwen2, and Llama in float32. Received "
            f"{config['model_type']} in {dtype}."
        )
    return create(workload.model, model, mesh, dtype=jnp.float32)


class Words:
    """A tokenizer whose words are token ids in decimal."""

    def __init__(self, workload: Workload):
        self.workload = workload

    def encode(self, text: str) -> list[int]:
        return [int(word) for word in text.split()]

    def decode(self, tokens: list[int]) -> str:
        return " ".join(map(str, tokens))

    def bos_id(self) -> None:
        return None

    def eos_id(self) -> int:
        return self.workload.end

    def pad_id(self) -> int:
        return self.workload.pad


def imposing(workload: Workload) -> type[sampler.Sampler]:
    """A sampler whose rows say the end token after their length, and only there."""
    lengths = jnp.array(workload.lengths)
    prefix = len(workload.prompts[0])
    reserved = jnp.array([workload.end, workload.pad])

    class Imposed(sampler.Sampler):
        def _sample(self, logits, eos, cache, sampler_state):
            said = sampler_state.decoding_step + 1 - prefix
            only_end = jnp.full(logits.shape[-1], -jnp.inf).at[workload.end].set(0)
            logits = logits.at[..., reserved].set(-jnp.inf)
            over = (said >= lengths)[:, None, None]
            logits = jnp.where(over, only_end.astype(logits.dtype), logits)
            return super()._sample(logits, eos, cache, sampler_state)

    return Imposed


def make_cluster(workload: Workload, settings: dict) -> RLCluster:
    count = settings["devices"]
    jax.config.update("jax_num_cpu_devices", count)  # Of no account for a GPU.
    devices = np.array(jax.devices()[:count]).reshape(count, 1)
    mesh = jax.sharding.Mesh(devices, ("fsdp", "tp"))
    prefix, prompts = len(workload.prompts[0]), len(workload.prompts)
    config = ClusterConfig(
        role_to_mesh={role: mesh for role in (Role.ACTOR, Role.ROLLOUT)},
        rollout_engine="vanilla",
        training_config=RLTrainingConfig(
            actor_optimizer=optax.chain(
                optax.clip_by_global_norm(1.0),
                optax.adamw(workload.learning_rate, weight_decay=0.0),
            ),
            eval_every_n_steps=10**9,
            max_steps=10**9,
            mini_batch_size=prompts,
            train_micro_batch_size=min(settings["micro_batch"], prompts),
            rollout_micro_batch_size=prompts,
            compute_logps_micro_batch_size=prompts,
        ),
        rollout_config=RolloutConfig(
            max_tokens_to_generate=workload.time,
            max_prompt_length=prefix,
            kv_cache_size=settings["cache"] or prefix + workload.time,
            temperature=1.0,
        ),
    )
    sampler.Sampler = imposing(workload)
    return RLCluster(
        actor=load_model(workload, settings["dtype"], mesh),
        tokenizer=Words(workload),
        cluster_config=config,
    )


class TimedLearner(GRPOLearner):
    """Remembers how long sampling, rewards and advantages took."""

    rollout_s = 0.0
    tokens = 0

    def _generate_and_compute_advantage(self, *args, **kwargs):
        start = time.perf_counter()
        example = super()._generate_and_compute_advantage(*args, **kwargs)
        self.tokens = int(example.completion_mask.sum())
        self.rollout_s = time.perf_counter() - start
        return example


def main():
    steps = Steps()
    workload, settings = arguments(SETTINGS)
    cluster = make_cluster(workload, settings)

    def even(prompts, completions, **_):
        del prompts
        return [reward([int(word) for word in said.split()]) for said in completions]

    learner = TimedLearner(
        rl_cluster=cluster,
        algo_config=GRPOConfig(num_generations=workload.group, beta=0.0),
        reward_fns=even,
    )
    prompts = np.array([" ".join(map(str, prompt)) for prompt in workload.prompts])

    def batches():
        number = 0
        while steps.wait():
            # The default repeats the same tokens at every step.
            cluster.cluster_config.rollout_config.seed = workload.seed + number
            yield {"prompts": prompts}
            # Asked for the next batch: this one's work has been handed out.
            jax.block_until_ready(
                jax.tree.leaves(nnx.state(cluster.actor_trainer.model))
            )
            memory = jax.devices()[0].memory_stats() or {}
            steps.answer(
                tokens=learner.tokens,
                rollout=learner.rollout_s,
                device_bytes=memory.get("peak_bytes_in_use"),
            )
            number += 1

    steps.ready(jax=jax.__version__, device=jax.devices()[0].device_kind)
    learner.train(batches())


if __name__ == "__main__":
    main()
