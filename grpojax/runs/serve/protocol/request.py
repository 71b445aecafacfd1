"""Requests of OpenAI's protocol, checked: a JSON body to values."""

import dataclasses
import difflib
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ....text import AbstractTokenizer
from ..rows import Sampling
from .fields import checked, Reader, refuse, RefusedError
from .messages import read_chat


@dataclasses.dataclass(frozen=True)
class Request:
    """What a client asks for.

    **Fields:**

    - `prompts`: tokens of each; a chat has one.
    - `n`: completions of each prompt.
    - `max_tokens`, `sampling`, `seed`: of every completion.
    - `stop`: strings that end one.
    - `log_probs`: whether the tokens' log-probabilities are returned.
    - `stream`, `include_usage`, `token_ids`: the form of the response.
    - `calls_tools`: whether calls of tools in a completion are looked for.
    """

    prompts: Sequence[Sequence[int]]
    n: int
    max_tokens: int
    sampling: Sampling
    seed: int
    stop: Sequence[str]
    log_probs: bool
    stream: bool
    include_usage: bool
    token_ids: bool
    calls_tools: bool


_LEFT_OUT: dict[str, tuple[object, ...]] = {
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "repetition_penalty": (1,),
    "logit_bias": ({},),
    "best_of": (1,),
    "echo": (False,),
    "suffix": ("",),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
}
"""Keys that are not supported, with the values that ask for nothing."""

_IGNORED = (
    *("user", "metadata", "store", "service_tier", "safety_identifier"),
    *("prompt_cache_key", "parallel_tool_calls"),
)
_COMMON = (
    *("model", "max_tokens", "temperature", "top_k", "top_p", "min_p", "n", "seed"),
    *("stop", "logprobs", "stream", "stream_options", "return_token_ids"),
)
_CHAT = (
    *("messages", "max_completion_tokens", "top_logprobs", "chat_template_kwargs"),
    *("tools", "tool_choice"),
)


def parse_json(body: bytes) -> Mapping[str, Any]:
    """The JSON object of a body.

    **Raises:** `RefusedError` for what is none.
    """
    try:
        found = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise RefusedError(
            f"The body must be JSON. Received what cannot be read ({error}): send an "
            "object in UTF-8."
        ) from None
    if not isinstance(found, dict):
        raise RefusedError(
            f"The body must be a JSON object. Received a {type(found).__name__}."
        )
    return found


def read_request(
    body: Mapping[str, Any],
    tokenizer: AbstractTokenizer,
    *,
    chat: bool,
    model: str,
    max_prompt: int,
    max_tokens: int,
    prompts: Callable[[Reader], list[list[int]]] | None = None,
) -> Request:
    """A request, with its prompts as tokens.

    **Arguments:**

    - `body`: the JSON object.
    - `tokenizer`: the model's, with its chat template.
    - `chat`: whether the body has `messages`, and not a `prompt`.
    - `model`: the name under which the model is served.
    - `max_prompt`, `max_tokens`: the longest prompt and completion.
    - `prompts`: reads the prompts; by default each is tokenized by itself.

    **Returns:** the request.

    **Raises:** `RefusedError` naming the key that is at fault.
    """
    body = {key: value for key, value in body.items() if value is not None}
    _check_keys(body, (*_COMMON, *(_CHAT if chat else ("prompt",))))
    read = Reader(body)
    name = read.text("model", model)
    if name != model:
        raise RefusedError(
            f"`model` must be the one here, {model!r}. Received {name!r:.80}.",
            "model",
            status=404,
        )
    if prompts is None:
        prompts = lambda read: read_prompts(read, tokenizer, chat=chat)
    every = prompts(read)
    for prompt in every:
        if not 1 <= len(prompt) <= max_prompt:
            raise RefusedError(
                f"A prompt must have between 1 and {max_prompt} tokens. Received "
                f"{len(prompt)}: shorten it, or start the server with a larger "
                "--max-prompt.",
                "messages" if chat else "prompt",
            )
    limit = "max_tokens"
    if "max_completion_tokens" in body:
        limit = "max_completion_tokens"
    options = read.mapping("stream_options")
    if chat:
        read.integer("top_logprobs", 0, 0, 20)
        log_probs = read.flag("logprobs")
    else:
        log_probs = "logprobs" in body and body["logprobs"] is not False
        if not isinstance(body.get("logprobs"), bool):
            read.integer("logprobs", 0, 0, 20)
    return Request(
        prompts=every,
        n=read.integer("n", 1, 1, 128),
        max_tokens=read.integer(limit, max_tokens, 1, max_tokens),
        sampling=_sampling(read),
        seed=read.integer("seed", _random_seed(), -(2**63), 2**63 - 1),
        stop=_stop(read),
        log_probs=log_probs,
        stream=read.flag("stream"),
        include_usage=Reader(options).flag("include_usage"),
        token_ids=read.flag("return_token_ids"),
        calls_tools=bool(body.get("tools")) and body.get("tool_choice") != "none",
    )


def _sampling(read: Reader) -> Sampling:
    temperature = read.number("temperature", 1.0, 0, 2)
    if 0 < temperature < 0.01:
        raise refuse("temperature", "0, or between 0.01 and 2", temperature)
    top_p = read.number("top_p", 1.0, 0, 1)
    if top_p == 0:
        raise refuse("top_p", "above 0", top_p)
    # Some clients say -1 for "all".
    top_k = max(read.integer("top_k", 0, -1, 2**31 - 1), 0)
    return Sampling(temperature, top_k, top_p, read.number("min_p", 0.0, 0, 1))


def _random_seed() -> int:
    return int(np.random.default_rng().integers(2**31))


def _check_keys(body: Mapping[str, Any], known: Sequence[str]) -> None:
    for key, value in body.items():
        if key in _LEFT_OUT and value not in _LEFT_OUT[key]:
            raise RefusedError(
                f"`{key}` is not supported by this server. Received {value!r:.80}: "
                "leave it out.",
                key,
            )
        if key not in (*known, *_LEFT_OUT, *_IGNORED):
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean `{near[0]}`?" if near else "leave it out."
            raise RefusedError(
                f"A request has the keys {', '.join(known)}. Received {key!r:.80}: "
                f"{hint}",
                key[:80],
            )


def _stop(read: Reader) -> list[str]:
    value = read.body.get("stop", [])
    stops = [value] if isinstance(value, str) else value
    if not isinstance(stops, list) or not all(
        isinstance(stop, str) and stop for stop in stops
    ):
        raise refuse("stop", "a string, or a list of strings, none empty", value)
    if len(stops) > 16:
        raise refuse("stop", "at most 16 strings", len(stops))
    return [checked("stop", stop) for stop in stops]


def read_prompts(
    read: Reader, tokenizer: AbstractTokenizer, *, chat: bool
) -> list[list[int]]:
    """The prompts of a body as tokens; a chat has one.

    **Raises:** `RefusedError` for what is none.
    """
    if chat:
        return [read_chat(read).tokens(tokenizer)]
    value = read.body.get("prompt")
    words = "a text, a list of tokens, or a list of at most 128 of either"
    is_tokens = lambda x: (
        isinstance(x, list)
        and all(isinstance(y, int) and not isinstance(y, bool) for y in x)
    )
    each: list[Any] = [value]
    if isinstance(value, list) and not is_tokens(value):
        each = value
    if not 1 <= len(each) <= 128:
        raise refuse("prompt", words, f"{len(each)} of them")
    prompts = []
    for prompt in each:
        if isinstance(prompt, str):
            prompts.append(tokenizer.encode_prompt(checked("prompt", prompt)))
        elif is_tokens(prompt):
            if not all(0 <= token < tokenizer.vocab_size for token in prompt):
                words = f"made of tokens from 0 to {tokenizer.vocab_size - 1}"
                raise refuse("prompt", words, prompt)
            prompts.append(prompt)
        else:
            raise refuse("prompt", words, prompt)
    return prompts
