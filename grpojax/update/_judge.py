"""A frozen judge inside the program, as a reward.

It belongs to the update and not to the rewards, because it computes log-probs.
"""

import re
from typing import TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from ..policy import AbstractPolicy
from ..text import AbstractTokenizer
from ..types import Prompt, Rewards, Trajectory
from ._config import check_count, UpdateConfig
from .packed import masked_log_probs


_T = TypeVar("_T", bound="FrozenJudge")

_HOLES = ("prompt", "completion")

_Text = tuple[Int[Array, " _"], Int[Array, ""]]
"""Right-padded tokens, and how many there are."""


class FrozenJudge(eqx.Module):
    """A reward: the probability of a frozen judge's answer, in the program.

        P("Yes" | template with the prompt and the completion)

    or, against another answer, P("Yes") / (P("Yes") + P("No")). The judge reads the
    tokens of the policy, put between the tokens of the template: nothing is decoded,
    and no server is asked. The token that ends a completion is left out.

    **Fields:**

    - `policy`: the frozen judge, of the tokenizer of the one that is trained.
    - `pieces`: of the template: token ids, or `"prompt"` or `"completion"`.
    - `answers`: token ids of the answer, and of the one against it if there is one.
    - `ends`: the tokens that end a completion.
    - `tokens`: the most tokens that are scored at a time, as in `UpdateConfig`.
    - `name`: of the component.

    **Raises:** `ValueError` for answers without tokens, or a count that is not
    positive.
    """

    policy: AbstractPolicy
    pieces: tuple[tuple[int, ...] | str, ...] = eqx.field(static=True)
    answers: tuple[tuple[int, ...], ...] = eqx.field(static=True)
    ends: tuple[int, ...] = eqx.field(static=True, default=())
    tokens: int | None = eqx.field(static=True, default=None)
    name: str = eqx.field(static=True, kw_only=True, default="judge")

    def __check_init__(self):
        if self.tokens is not None:
            check_count("tokens", self.tokens)
        if len(self.answers) not in (1, 2) or not all(self.answers):
            raise ValueError(
                "A judge has an answer, and maybe one against it, each of at least one "
                f"token. Received {self.answers}."
            )

    @classmethod
    def of(
        cls: type[_T],
        policy: AbstractPolicy,
        tokenizer: AbstractTokenizer,
        template: str,
        *,
        answer: str = "Yes",
        against: str | None = None,
        chat: bool = False,
        tokens: int | None = None,
        name: str = "judge",
    ) -> _T:
        """A judge that is asked by a text.

        **Arguments:**

        - `policy`: the frozen judge.
        - `tokenizer`: that of both policies.
        - `template`: the question, with `{{ completion }}` and maybe `{{ prompt }}` in
            it. The prompt is that of the rollout, with its own template.
        - `answer`: whose probability is paid. Of several tokens all count.
        - `against`: the other one, if the two share the probability.
        - `chat`: whether the template is a message of the user, rendered by the chat
            template.
        - `tokens`, `name`: as the fields.

        **Raises:** `ValueError` for a template without the completion, or with another
        name in it.

        !!! example

            ```python
            template = "{{ prompt }}{{ completion }} Is it right? Answer:"
            reward = WeightedSum(
                {"judge": 1.0},
                FrozenJudge.of(judge, tokenizer, template, against="No"),
            )
            ```
        """
        check_template(template)
        text = template
        if chat:
            text = tokenizer.chat_text([{"role": "user", "content": template}])
        parts = re.split(r"\{\{ *(\w+) *\}\}", text)
        pieces: list[tuple[int, ...] | str] = []
        for number, part in enumerate(parts):
            if number % 2:
                pieces.append(part)
            elif part:
                first = not pieces and not chat
                encode = tokenizer.encode_prompt if first else tokenizer.encode
                pieces.append(tuple(encode(part)))
        answers = [
            tuple(tokenizer.encode(x)) for x in (answer, against) if x is not None
        ]
        return cls(
            policy,
            tuple(pieces),
            tuple(answers),
            tuple(tokenizer.end_tokens),
            tokens,
            name=name,
        )

    def asked(self, trajectory: Trajectory) -> Prompt:
        """What the judge reads of each row, `Prompt[prompt group prefix]`."""

        def one(prompt: Prompt, tokens, is_token, terminated) -> Prompt:
            length = jnp.max(jnp.where(is_token, jnp.arange(1, tokens.size + 1), 0))
            last = tokens[jnp.maximum(length - 1, 0)]
            is_end = jnp.any(last == jnp.array(self.ends, jnp.int32))
            drops = terminated & is_end & (length > 0)
            length = length - drops.astype(length.dtype)
            texts = {
                "prompt": (prompt.tokens, prompt.length.astype(jnp.int32)),
                "completion": (tokens, length.astype(jnp.int32)),
            }
            return _joined([_piece(x, texts) for x in self.pieces])

        rows = jax.vmap(one, in_axes=(None, 0, 0, 0))
        is_token = _is_token(trajectory.sampled)
        given = trajectory.tokens, is_token, trajectory.terminated
        return jax.vmap(rows)(trajectory.prompt, *given)

    def __call__(self, trajectory: Trajectory) -> Rewards:
        """Rewards of one component, between 0 and 1."""
        time = max(map(len, self.answers))
        padded = np.zeros((len(self.answers), time), np.int32)
        for number, answer in enumerate(self.answers):
            padded[number, : len(answer)] = answer
        lengths = np.array([len(x) for x in self.answers])
        is_answer = np.arange(time) < lengths[:, None]
        prompts = trajectory.tokens.shape[0]
        every = lambda x: jnp.broadcast_to(jnp.asarray(x), (prompts, *x.shape))
        answers, mask = every(padded), every(is_answer)

        def member(asked: Prompt) -> Float[Array, " prompt"]:
            size = UpdateConfig(tokens=self.tokens).microbatch_tokens(answers.size)
            found, _ = masked_log_probs(
                self.policy,
                asked,
                answers,
                mask,
                size,
                vocab_size=trajectory.vocab_size,
            )
            nats = jnp.sum(found, axis=-1)
            if len(self.answers) == 1:
                return jnp.exp(nats[:, 0])
            return jax.nn.sigmoid(nats[:, 0] - nats[:, 1])

        # One row of each group at a time: the keys and values of all texts of a batch
        # would take as much memory as those of the rollout.
        asked = jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), self.asked(trajectory))
        said = jax.lax.map(member, asked)
        return Rewards.of(said.T, name=self.name, lengths=trajectory.lengths)


def check_template(template: str) -> None:
    """Raises a `ValueError` unless a template asks about a completion."""
    names = re.findall(r"\{\{ *(\w+) *\}\}", template)
    if "completion" not in names or not set(names) <= set(_HOLES):
        raise ValueError(
            "A judge's template has `{{ completion }}` in it, and maybe "
            f"`{{{{ prompt }}}}`. Received {template!r}."
        )


def _is_token(sampled: Bool[Array, "*rows time"]) -> Bool[Array, "*rows time"]:
    """The completion's tokens, replies between turns included."""
    reverse = jax.lax.cummax(sampled.astype(jnp.int32), sampled.ndim - 1, reverse=True)
    return reverse > 0


def _piece(
    piece: tuple[int, ...] | str,
    texts: dict[str, _Text],
) -> _Text:
    if isinstance(piece, str):
        return texts[piece]
    return jnp.array(piece, jnp.int32), jnp.asarray(len(piece), jnp.int32)


def _joined(
    pieces: list[_Text],
) -> Prompt:
    """Right-padded pieces, one after the other."""
    width = sum(tokens.shape[0] for tokens, _ in pieces)
    joined, end = jnp.zeros(width, jnp.int32), jnp.zeros((), jnp.int32)
    for tokens, length in pieces:
        # What is behind a piece's end is overwritten by the next one, or padding.
        place = end + jnp.arange(tokens.shape[0], dtype=jnp.int32)
        joined = joined.at[place].set(tokens.astype(jnp.int32), mode="drop")
        end = end + length
    return Prompt(joined, end)
