"""Loading of a tokenizer by its path or name."""

import datetime
import os

from ._abstract import AbstractTokenizer
from ._files import HUGGING_FACE, read_files
from ._huggingface import HuggingFaceTokenizer
from ._sentencepiece import SentencePieceTokenizer


def load_tokenizer(
    path: str | os.PathLike[str], *, today: datetime.date | None = None
) -> AbstractTokenizer:
    """Loads a tokenizer.

    **Arguments:**

    - `path`: a model directory (its `tokenizer.json` if there is one, else its
        `tokenizer.model` or only `*.model`; with the chat template and the special
        tokens that the other files declare), or one such file on its own, or the id of
        a model on the Hugging Face hub, of which only the tokenizer is downloaded.
    - `today`: the date for chat templates that ask for it (`strftime_now`); by default
        that of the clock, so that prompts change from day to day.

    **Returns:** the tokenizer.

    **Raises:** `FileNotFoundError` if there is no tokenizer at `path`, or the hub
    cannot be reached; `ValueError` for an unknown file format.

    !!! example

        ```python
        tokenizer = load_tokenizer("HuggingFaceTB/SmolLM2-135M-Instruct")
        ```
    """
    files = read_files(path)
    known = HUGGING_FACE in files.contents
    tokenizer = HuggingFaceTokenizer(files) if known else SentencePieceTokenizer(files)
    tokenizer.today = today
    return tokenizer
