"""The directory of a run: its files, its lock, and its records.

config.yaml        the complete configuration
metrics.jsonl      one record per step
completions.jsonl  one record per logged prompt
evaluations.jsonl  one record per evaluation
events.jsonl       the run's history: starts, checkpoints, warnings
summary.json       the kind of run and its result; `"complete": false` until finished
predictions/       the completions of evaluations
checkpoints/       train states to resume from
tracking/          the files and positions of trackers
curve.png          reward and accuracy over the steps
model/             the policy, in Hugging Face's format
adapter/           its trained LoRA adapters, in PEFT's format, if there are any
"""

from ._checks import (
    ADAPTER as ADAPTER,
    check_characters as check_characters,
    CHECKPOINTS as CHECKPOINTS,
    METRICS as METRICS,
    MODEL as MODEL,
)
from ._directory import RunDirectory as RunDirectory
