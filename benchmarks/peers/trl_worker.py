"""One GRPO step of TRL, for `compare.py`: its own trainer, paused before every step.

TRL samples with `generate`, which runs until the longest row ends; a row that has
sampled its end token continues as padding. Lengths are imposed by a logits processor,
so masking is TRL's own: a row samples the end token at its length and not before.
"""

import functools
import sys
import tempfile
import time

import torch
from datasets import Dataset
from protocol import arguments, reward, Steps, Workload
from tokenizers import models, pre_tokenizers, Tokenizer
from transformers import (
    AutoModelForCausalLM,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedTokenizerFast,
    TrainerCallback,
)
from trl import GRPOConfig, GRPOTrainer


# The best found on two CPU cores. `generate` is the fastest sampler there: continuous
# batching in transformers took eight times as long on full lengths, for want of an
# attention kernel for packed rows, and it takes no logits processor.
SETTINGS = {
    # float32, or bfloat16 as TRL has it, autocast over float32 weights, for which the
    # cache must be null: a static one is float32 and refuses its values.
    "dtype": "float32",
    # Rows in a forward and backward pass; gradients add up to one update. Fresh results
    # of 64 MB and more cost page faults: 8 to 16 rows are faster than 32 or 64.
    "micro_batch": 16,
    # A static cache is not reallocated at every token; TRL's default, null, is.
    "cache": "static",
    # On in TRL by default: a second forward pass, to save memory.
    "gradient_checkpointing": False,
    # Faster than "eager" by a fifth.
    "attention": "sdpa",
    # `torch.compile`: no faster on a CPU, and minutes of compilation.
    "compile": False,
    # Of PyTorch; one for each core when null.
    "threads": None,
    # Anything else of `GRPOConfig`.
    "config": {},
}


class Imposed(LogitsProcessor):
    """Lets a row say the end token at its length, and only there."""

    def __init__(self, workload: Workload):
        self.prefix = len(workload.prompts[0])
        self.end, self.reserved = workload.end, [workload.end, workload.pad]
        lengths = torch.tensor(workload.lengths)
        self.rows = {n: torch.nonzero(lengths == n)[:, 0] for n in workload.lengths}

    def __call__(self, input_ids, scores):
        scores[:, self.reserved] = -torch.inf
        rows = self.rows.get(input_ids.shape[1] - self.prefix + 1)
        if rows is not None:
            scores[rows] = -torch.inf
            scores[rows, self.end] = 0.0
        return scores


def tokenizer(workload: Workload) -> PreTrainedTokenizerFast:
    """Words are token ids in decimal."""
    words = {str(token): token for token in range(workload.vocab_size)}
    fast = Tokenizer(models.WordLevel(words, unk_token=str(workload.pad)))
    fast.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=fast,
        eos_token=str(workload.end),
        pad_token=str(workload.pad),
        padding_side="left",
    )


class Held(TrainerCallback):
    """Answers for the last step, and waits for the next to be asked for."""

    def __init__(self, steps: Steps, workload: Workload):
        self.steps = steps
        self.workload = workload
        self.began = False
        self.rollout = 0.0
        self.tokens = 0

    def timed(self, generate):
        """Around TRL's sampling, rewards and advantages."""

        @functools.wraps(generate)
        def measured(inputs):
            start = time.perf_counter()
            batch = generate(inputs)
            self.tokens = int(batch["completion_mask"].sum())
            self.rollout = time.perf_counter() - start
            return batch

        return measured

    def on_step_begin(self, *_, **__):
        cuda = torch.cuda.is_available()
        if cuda:
            torch.cuda.synchronize()
        if self.began:
            self.steps.answer(
                tokens=self.tokens,
                rollout=self.rollout,
                device_bytes=torch.cuda.max_memory_allocated() if cuda else None,
            )
        else:
            self.steps.ready(torch=torch.__version__, threads=torch.get_num_threads())
            self.began = True
        if not self.steps.wait():
            sys.exit()


def train(steps: Steps, workload: Workload, settings: dict, folder: str):
    if settings["threads"]:
        torch.set_num_threads(settings["threads"])
    model = AutoModelForCausalLM.from_pretrained(
        workload.model,
        dtype=torch.float32,
        attn_implementation=settings["attention"],
    )
    prompts = [" ".join(map(str, prompt)) for prompt in workload.prompts]
    imposed = LogitsProcessorList([Imposed(workload)])
    model.generate = functools.partial(model.generate, logits_processor=imposed)
    micro_batch = min(settings["micro_batch"], workload.rows)
    updates = 1000
    config = GRPOConfig(
        output_dir=folder,
        per_device_train_batch_size=micro_batch,
        gradient_accumulation_steps=workload.rows // micro_batch,
        num_generations=workload.group,
        max_completion_length=workload.time,
        loss_type="grpo",
        beta=0.0,
        learning_rate=workload.learning_rate,
        lr_scheduler_type="constant",
        weight_decay=0.0,
        max_grad_norm=1.0,
        cache_implementation=settings["cache"],
        gradient_checkpointing=settings["gradient_checkpointing"],
        bf16=settings["dtype"] == "bfloat16",
        torch_compile=settings["compile"],
        shuffle_dataset=False,
        max_steps=updates,
        logging_strategy="no",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        seed=workload.seed,
        use_cpu=not torch.cuda.is_available(),
        **settings["config"],
    )
    held = Held(steps, workload)

    def even(completion_ids, **_):
        return [reward(tokens) for tokens in completion_ids]

    trainer = GRPOTrainer(
        model=model,
        args=config,
        reward_funcs=even,
        train_dataset=Dataset.from_dict({"prompt": prompts * updates}),
        processing_class=tokenizer(workload),
        callbacks=[held],
    )
    trainer._generate_and_score_completions = held.timed(
        trainer._generate_and_score_completions
    )
    trainer.train()


def main():
    steps = Steps()
    workload, settings = arguments(SETTINGS)
    with tempfile.TemporaryDirectory() as folder:
        train(steps, workload, settings, folder)


if __name__ == "__main__":
    main()
