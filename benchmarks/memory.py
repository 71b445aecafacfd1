"""Memory saved by each setting, and its cost.

    python benchmarks/memory.py             # every table
    python benchmarks/memory.py cache remat

- `cache`: the shipped model samples with caches, or layers' matrices, of fewer bits.
    Bytes of caches are counted from shapes; gaps are between the recorded log-probs and
    those of the policy with exact caches and weights, in nats, and `rows` are those
    whose mean gap exceeds 3e-4, GSPO's clip range.
- `remat`: the memory of one update and the floating-point operations of one layer's
    gradient, according to the compiler.
- `optimizer`: bytes from shapes; the displacement of the shipped model's weights in a
    hundred updates of AdamW with random gradients, parallel and orthogonal to that in
    float32.
- `chunk`: log-probs and their gradient at a large vocabulary.
"""

import argparse
import dataclasses
import time
from collections.abc import Iterator
from importlib import resources

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
from presets import PRESETS, RandomPrompts

import grpojax
from envs.gsm8k import GSM8K, load_rows, WORD_PROBLEMS
from grpojax import algorithms, models, policy as policies, rollout, update
from grpojax.types import Prompt


SHIPPED = resources.files("grpojax") / "assets" / "gsm8k-tiny"
MIB = 2**20


def bytes_of(tree) -> int:
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))


def on_shapes(function, *values):
    """A program of a function, made from the shapes of what it is given."""
    shapes = eqx.filter_eval_shape(lambda: values)
    is_shape = lambda x: isinstance(x, jax.ShapeDtypeStruct)
    arrays, static = eqx.partition(shapes, is_shape)
    call = lambda arrays: eqx.filter(
        function(*eqx.combine(arrays, static)), eqx.is_array
    )
    return jax.jit(call).lower(arrays).compile()


def cache() -> Iterator[str]:
    tokenizer = grpojax.text.load_tokenizer(SHIPPED)
    rows, _ = load_rows(WORD_PROBLEMS, split="test", count=256)
    env = GSM8K(rows, tokenizer=tokenizer, max_completion_length=40)
    states, prompts = jax.vmap(env.problem)(jnp.arange(env.size))
    yield (
        "| products | caches | MiB | matrices | gap | largest | beyond 0.2 | rows | "
        "correct |"
    )
    for compute, kept, behavior in (
        ("float32", None, None),
        ("float32", "bfloat16", None),
        ("float32", "int8", None),
        ("bfloat16", None, None),
        ("bfloat16", "int8", None),
        ("float32", None, models.quantize),
        ("bfloat16", None, models.quantize),
        ("bfloat16", "int8", models.quantize),
    ):
        load = lambda kept, compute=compute: models.load(
            SHIPPED, dtype="float32", compute_dtype=compute, cache_dtype=kept
        )
        policy, exact = load(kept), load(None)

        @eqx.filter_jit
        def measure(policy, exact, env, states, prompts, behavior=behavior):
            sampled = policy if behavior is None else behavior(policy)
            said = rollout.complete(
                sampled, env, states, prompts, group=4, key=jr.key(0)
            )
            row = lambda prompt, tokens: policies.log_prob(exact, prompt, tokens)
            score = jax.vmap(jax.vmap(row, in_axes=(None, 0)))
            scored = score(said.prompt, said.tokens)
            gap = jnp.where(said.sampled, scored - said.log_prob, 0)
            row_gap = jnp.sum(gap, axis=-1) / said.lengths
            return gap, said.sampled, row_gap, said.rewards["correct"]

        found = measure(policy, exact, env, states, prompts)
        gap, sampled, row_gap, correct = map(np.asarray, found)
        gap = np.abs(gap[sampled])
        columns = env.max_prompt_length * env.size + 40 * 4 * env.size
        one = eqx.filter_eval_shape(
            lambda p: policies.empty_cache(p.for_decoding(), 1), policy
        )
        yield (
            f"| {compute} | {policy.cache_dtype} | "
            f"{columns * bytes_of(one) / MIB:.1f} | "
            f"{'int8' if behavior else compute} | {gap.mean():.1e} | "
            f"{gap.max():.1e} | {np.mean(gap > 0.2):.1e} | "
            f"{np.mean(np.abs(row_gap) > 3e-4):.0%} | {np.mean(correct):.3f} |"
        )


def remat() -> Iterator[str]:
    prompts, group, prefix, horizon = 8, 8, 64, 128
    yield "| remat | temporary MiB | MFLOP per layer |"
    for name in ("nothing", "elementwise", "mlp", "layers"):
        policy = models.Transformer(PRESETS["tiny"], remat=name, key=jr.key(0))
        env = RandomPrompts(policy.vocab_size, prefix, horizon)
        config = rollout.RolloutConfig(prompts, group)
        said = eqx.filter_eval_shape(
            rollout.generate, policy, env, config, key=jr.key(0)
        )
        sgd = optax.sgd(1e-3)

        def improve(policy, said, sgd=sgd):
            return update.improve(
                policy,
                sgd.init(eqx.filter(policy, eqx.is_inexact_array)),
                said,
                jnp.ones((prompts, group)),
                objective=algorithms.grpo().objective,
                optimizer=sgd,
            )

        program = on_shapes(improve, policy, said)
        temporary = program.memory_analysis().temp_size_in_bytes
        # The compiler counts what a loop does once, whatever the number of layers.
        two = dataclasses.replace(PRESETS["tiny"], num_layers=2)
        policy = models.Transformer(two, remat=name, key=jr.key(0))

        def gradient(layers, policy, tokens):
            policy = eqx.tree_at(lambda p: p.layers, policy, layers)
            return jnp.sum(policy.extend(tokens, tokens)[0])

        layer = on_shapes(
            eqx.filter_grad(gradient), policy.layers, policy, jnp.arange(horizon)
        )
        flops = layer.cost_analysis()["flops"]
        yield f"| {name} | {temporary / MIB:,.0f} | {flops / 1e6:,.0f} |"


def optimizer() -> Iterator[str]:
    adamw = optax.adamw(1e-5)
    policy = models.load(SHIPPED, dtype="float32")
    exact = eqx.filter(policy, eqx.is_inexact_array)
    leaves, tree = jax.tree.flatten(exact)

    @eqx.filter_jit
    def descend(params, which):
        made = {"plain": adamw}.get(which) or update.stochastic_rounding(
            adamw, state_dtype=which
        )

        def step(carry, key):
            params, state = carry
            keys = jax.tree.unflatten(tree, list(jr.split(key, len(leaves))))
            # Some signal in much noise, as policy gradients are.
            draw = lambda p, key: (0.1 + jr.normal(key, p.shape)).astype(p.dtype)
            gradient = jax.tree.map(draw, params, keys)
            updates, state = made.update(gradient, state, params)
            return (optax.apply_updates(params, updates), state), None

        keys = jr.split(jr.key(0), 100)
        start = params, made.init(params)
        return jax.lax.scan(step, start, keys)[0]

    def moved(params, start) -> np.ndarray:
        far = jax.tree.map(lambda a, b: a.astype(jnp.float32) - b, params, start)
        return np.concatenate([np.asarray(x).ravel() for x in jax.tree.leaves(far)])

    yield "| weights | moments | rounding | bytes/parameter | parallel | orthogonal |"
    for weights, which, words in (
        ("float32", "plain", "float32 | none"),
        ("float32", "bfloat16", "bfloat16 | stochastic"),
        ("bfloat16", "plain", "bfloat16 | nearest"),
        ("bfloat16", "float32", "float32 | stochastic"),
        ("bfloat16", "bfloat16", "bfloat16 | stochastic"),
    ):
        start = jax.tree.map(lambda x, w=weights: x.astype(w), exact)
        wide = jax.tree.map(lambda x: x.astype(jnp.float32), start)
        params, state = descend(start, which)
        wanted = moved(descend(wide, "plain")[0], wide)
        got = moved(params, wide)
        along = got @ wanted / (wanted @ wanted)
        aside = np.linalg.norm(got - along * wanted) / np.linalg.norm(wanted)
        size = (bytes_of(params) + bytes_of(state)) / sum(x.size for x in leaves)
        yield f"| {weights} | {words} | {size:.1f} | {along:.3f} | {aside:.3f} |"


def chunk() -> Iterator[str]:
    config = PRESETS["qwen2.5-0.5b"]
    small = dict(vocab_size=config.vocab_size, hidden_size=config.hidden_size)
    config = models.TransformerConfig(
        **small,
        intermediate_size=8,
        num_layers=1,
        num_heads=1,
        num_kv_heads=1,
        head_dim=8,
        tied=True,
    )
    prompts, group, horizon = 2, 2, 128
    yield "| positions at a time | temporary MiB | seconds |"
    for size in (55, 128, 256):
        policy = models.Transformer(config, compute_dtype="bfloat16", key=jr.key(0))
        prompt = Prompt(
            jnp.zeros((prompts, 4), jnp.int32), jnp.full(prompts, 4, jnp.int32)
        )
        tokens = jr.randint(jr.key(1), (prompts, group, horizon), 0, config.vocab_size)

        @eqx.filter_grad
        def gradient(policy, prompt, tokens, size=size):
            return jnp.sum(update.log_probs(policy, prompt, tokens, chunk=size)[0])

        program = on_shapes(gradient, policy, prompt, tokens)
        arrays = eqx.filter((policy, prompt, tokens), eqx.is_array)
        seconds = []
        for _ in range(3):
            begin = time.perf_counter()
            jax.block_until_ready(program(arrays))
            seconds.append(time.perf_counter() - begin)
        temporary = program.memory_analysis().temp_size_in_bytes
        yield f"| {size} | {temporary / MIB:,.0f} | {min(seconds[1:]):.2f} |"


TABLES = {table.__name__: table for table in (cache, remat, optimizer, chunk)}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tables", nargs="*", help=", ".join(TABLES))
    asked = parser.parse_args().tables or list(TABLES)
    for name in asked:
        if name not in TABLES:
            parser.error(f"there is no table {name!r}: choose of {', '.join(TABLES)}")
    print(f"on {jax.devices()[0].device_kind}")
    for name in asked:
        lines = TABLES[name]()
        head = next(lines)
        print(f"\n{name}\n\n{head}\n{'|---' * (head.count('|') - 1)}|")
        for line in lines:
            print(line, flush=True)


if __name__ == "__main__":
    main()
