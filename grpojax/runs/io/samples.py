"""What a policy said, as records that people and reports read."""

import codecs
from collections.abc import Iterator

import numpy as np
from jaxtyping import ArrayLike

from ...text import AbstractTokenizer
from ..training.step import Completions
from .records import Sample, SampleGroup


def to_records(
    step: int, completions: Completions, tokenizer: AbstractTokenizer
) -> Iterator[dict[str, object]]:
    """The record of each prompt: a `SampleGroup` as JSON.

    `pieces`, `log_prob` and `sampled` end with the last sampled token. Numbers that do
    not apply are NaN.

    **Arguments:**

    - `step`: the step that they were sampled in.
    - `completions`: on the host.
    - `tokenizer`: the policy's.
    """
    said, prompts = completions, completions.prompt
    for p in range(prompts.length.shape[0]):
        samples = []
        for g in range(said.tokens.shape[1]):
            sampled = np.asarray(said.sampled[p, g])
            # Past the last token that was sampled there are replies or nothing.
            length = int(np.max(np.flatnonzero(sampled), initial=-1)) + 1
            tokens = [int(token) for token in said.tokens[p, g, :length]]
            samples.append(
                Sample(
                    text=tokenizer.decode(tokens),
                    pieces=token_pieces(tokens, tokenizer),
                    log_prob=[shortest_float(x) for x in said.log_prob[p, g, :length]],
                    sampled=sampled[:length].tolist(),
                    rewards={
                        name: shortest_float(x[p, g])
                        for name, x in said.rewards.items()
                    },
                    total=shortest_float(said.total[p, g]),
                    valid=bool(said.valid[p, g]),
                    advantage=shortest_float(_advantage(said, p, g)),
                    terminated=bool(said.terminated[p, g]),
                )
            )
        prompt = prompts.tokens[p, : int(prompts.length[p])]
        text = tokenizer.decode([int(token) for token in prompt])
        yield SampleGroup(step, text, samples).to_json()


def _advantage(said: Completions, p: int, g: int) -> ArrayLike:
    """A row's advantage; the mean over its tokens if each has its own."""
    advantage = np.asarray(said.advantages[p, g])
    if advantage.ndim == 0:
        return advantage
    spoken = advantage[np.asarray(said.sampled[p, g])]
    return np.sum(spoken) / max(spoken.size, 1)


def shortest_float(x: ArrayLike) -> float:
    """The number with the fewest digits that is this one in its own precision."""
    return float(str(np.asarray(x)[()]))


def token_pieces(tokens: list[int], tokenizer: AbstractTokenizer) -> list[str]:
    """What each token adds to the text.

    A character that several tokens make belongs to the last of them. A token without
    bytes, such as one that ends a turn, is shown by its name in the vocabulary.
    """
    known = tokenizer.token_bytes
    table, lengths = np.asarray(known.table), np.asarray(known.length)
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    made = []
    for place, token in enumerate(tokens, 1):
        data = table[token, : lengths[token]].tobytes()
        name = "" if data else tokenizer.piece(token) or ""
        made.append(decoder.decode(data, final=place == len(tokens)) + name)
    return made
