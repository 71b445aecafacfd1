"""What can be said of a policy and its problems before anything is sampled."""

from collections.abc import Iterator

from ... import models
from ...env import AbstractEnvironment
from ...policy import AbstractPolicy
from ...text import AbstractTokenizer


def remarks(
    policy: AbstractPolicy,
    env: AbstractEnvironment,
    tokenizer: AbstractTokenizer | None = None,
    *,
    chat: bool = False,
) -> tuple[str, ...]:
    """Sentences about what will probably not go as it is meant to.

    **Arguments:**

    - `policy`: a `models.Transformer` knows its number of positions.
    - `env`: the problems.
    - `tokenizer`: the policy's.
    - `chat`: whether prompts are rendered by its chat template.

    **Raises:** `ValueError` if sequences may be longer than those for which the model's
    rotary scaling is implemented.
    """
    return tuple(_remarks(policy, env, tokenizer if chat else None))


def _remarks(
    policy: AbstractPolicy,
    env: AbstractEnvironment,
    tokenizer: AbstractTokenizer | None,
) -> Iterator[str]:
    prompt, completion = env.max_prompt_length, env.max_completion_length
    if isinstance(policy, models.Transformer):
        limit = policy.config.limit
        if limit is not None and prompt + completion > limit:
            raise ValueError(
                "The model's rotary scaling (rope_scaling in config.json) changes with "
                f"the length of texts of more than {limit:,} tokens, which is not "
                f"implemented. Received a prompt of {prompt:,} tokens and a completion "
                f"of {completion:,}. Lower rollout.max_new_tokens or "
                "data.max_prompt_length."
            )
        most = policy.config.max_positions
        if prompt + completion > most:
            yield (
                f"The model has {most:,} positions (max_position_embeddings), and a "
                f"prompt of {prompt:,} tokens with a completion of {completion:,} "
                f"needs {prompt + completion:,}: what it writes beyond them is "
                "untrained. Lower rollout.max_new_tokens or data.max_prompt_length."
            )
    if tokenizer is None or env.stop is not None:
        return
    closing = _closing(tokenizer)
    ends = set(env.end_tokens.tolist())
    if closing and ends.isdisjoint(closing):
        names = lambda tokens: " ".join(tokenizer.piece(x) or str(x) for x in tokens)
        yield (
            f"The chat template ends an answer with {names(closing)}, and a completion "
            f"is ended by {names(sorted(ends))}: every one will be truncated. Correct "
            "`eos_token_id` in generation_config.json, or set data.stop."
        )


def _closing(tokenizer: AbstractTokenizer) -> list[int]:
    """The tokens with which the chat template ends an assistant's message."""
    message = "an answer"
    asked = {"role": "user", "content": "a question"}
    try:
        text = tokenizer.chat_text(
            [asked, {"role": "assistant", "content": message}],
            add_generation_prompt=False,
        )
    except ValueError:
        return []  # Which is said where a prompt is rendered.
    return tokenizer.encode(text.rpartition(message)[2])
