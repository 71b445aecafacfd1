"""Reward functions for a worker process: no JAX, so that it starts quickly."""

import os
import time


def count_sevens(prompts, completions, **_):
    """One for each 7 that was said; told to, it raises, hangs or dies."""
    del prompts
    for text in completions:
        if "raise" in text:
            raise ValueError(f"cannot judge {text!r}")
        if "hang" in text:
            time.sleep(600)
        if "die" in text:
            os._exit(1)
        if "unsendable" in text:
            return lambda: None
    return [float(text.split().count("7")) for text in completions]


def count_letters(prompts, completions):
    """The length of a text."""
    del prompts
    return [float(len(text)) for text in completions]
