"""Directories of tiny tokenizers, and what `transformers` makes of them.

python -m tests.text.peers    # Writes transformers.json again.
"""

import json
import struct
from pathlib import Path

from tokenizers import (
    AddedToken,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    Tokenizer,
)


ANSWERS = Path(__file__).parent / "transformers.json"
MERGED = ["an", "ana", "he", "the", " t", " the", "12", "\n\n"]
LETTERS = sorted(set("abcdefghijklmnopqrstuvwxyzABCDT 0123456789.,:?<>|/_\n"))


def byte_level():
    """Llama 3's kind: bytes, with merges."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    pairs = [("a", "n"), ("an", "a"), ("h", "e"), ("t", "he"), ("Ġ", "the"), ("1", "2")]
    pieces = [*alphabet, *("".join(pair) for pair in pairs)]
    tokenizer = Tokenizer(models.BPE({x: i for i, x in enumerate(pieces)}, pairs))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def metaspace():
    """A Unigram model with U+2581 for a space, as `tokenizers` has sentencepiece's."""
    pieces = [("<unk>", 0.0), ("<s>", 0.0), ("</s>", 0.0)]
    pieces += [(f"<0x{byte:02X}>", -20.0) for byte in range(256)]
    words = [x.replace(" ", "▁") for x in (*LETTERS, *MERGED)]
    pieces += [(word, -8.0 - i / 64) for i, word in enumerate(words)]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=0, byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    steps = [decoders.ByteFallback(), decoders.Metaspace(prepend_scheme="first")]
    tokenizer.decoder = decoders.Sequence(steps)
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    return tokenizer


def gemma():
    """Gemma's kind: BPE over U+2581, with a byte for what it lacks."""
    units = [f"<0x{byte:02X}>" for byte in range(256)]
    letters = [x.replace(" ", "▁") for x in LETTERS]
    pairs = [("a", "n"), ("an", "a"), ("h", "e"), ("t", "he"), ("▁", "the")]
    pieces = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", *units, *letters]
    pieces += ["".join(pair) for pair in pairs]
    vocabulary = {x: i for i, x in enumerate(pieces)}
    model = models.BPE(
        vocabulary, pairs, unk_token="<unk>", byte_fallback=True, fuse_unk=True
    )
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence(steps)
    tokenizer.add_special_tokens(["<pad>", "<eos>", "<bos>", "<unk>"])
    return tokenizer


def _field(number, value):
    """A field of a protobuf: a text, a message, a float or an integer."""
    if isinstance(value, float):
        return bytes([number << 3 | 5]) + struct.pack("<f", value)
    tag = number << 3 | (0 if isinstance(value, int) else 2)
    key = bytes([tag]) if tag < 128 else bytes([tag & 127 | 128, tag >> 7])
    if isinstance(value, int):
        return key + bytes([value])
    data = value.encode() if isinstance(value, str) else value
    size = len(data)
    length = bytes([size]) if size < 128 else bytes([size & 127 | 128, size >> 7])
    return key + length + data


def sentencepiece():
    """Llama 2's kind: a BPE model of sentencepiece, written by hand."""
    pieces = [("<unk>", 0.0, 2), ("<s>", 0.0, 3), ("</s>", 0.0, 3)]
    pieces += [(f"<0x{byte:02X}>", 0.0, 6) for byte in range(256)]
    words = [x.replace(" ", "▁") for x in (*MERGED, *LETTERS)]
    pieces += [(word, float(-i), 1) for i, word in enumerate(words)]
    listed = [
        _field(1, _field(1, piece) + _field(2, score) + _field(3, kind))
        for piece, score, kind in pieces
    ]
    # BPE, byte fallback; a dummy prefix, and spaces as they are.
    trainer = _field(3, 2) + _field(35, 1)
    normalizer = _field(1, "identity") + _field(3, 1) + _field(4, 0) + _field(5, 1)
    return b"".join(listed) + _field(2, trainer) + _field(3, normalizer)


def around(tokenizer, begin="<s>", end=None):
    """The tokenizer with a post-processor that adds tokens to every text."""
    tokenizer.add_special_tokens([x for x in (begin, end, "</s>") if x])
    special = [(x, tokenizer.token_to_id(x)) for x in (begin, end) if x]
    single = " ".join([*([begin] if begin else []), "$A", *([end] if end else [])])
    tokenizer.post_processor = processors.TemplateProcessing(
        single=single, special_tokens=special
    )
    return tokenizer


def with_added(tokenizer, *added):
    tokenizer.add_tokens(list(added))
    return tokenizer


ENDS = {"bos_token": "<s>", "eos_token": "</s>"}
FAST = {"tokenizer_class": "PreTrainedTokenizerFast"}
LLAMA = {"tokenizer_class": "LlamaTokenizer"}
GEMMA = {f"{x}_token": f"<{x}>" for x in ("bos", "eos", "pad", "unk", "mask")}
CONTENT = "{% for m in messages %}{{ m }}{% endfor %}"
NAMES = "{{ bos_token }}|{{ sep_token }}|{{ cls_token }}|{{ image_token }}|{{ gone }}"
TWO = [
    {"name": "default", "template": "default {{ tools }}"},
    {"name": "tool_use", "template": "tools {{ tools | tojson }}"},
]


def lookup(city: str, days: list[int], unit: str | None = None) -> dict[str, float]:
    """Looks the weather up.

    Args:
        city: The place,
            as it is written.
        days: Days from today.
        unit: The unit (choices: ["c", "f"])

    Returns:
        The temperatures.
    """
    return {city: len(days) + len(unit or "")}


def token(content, **flags):
    defaults = dict(lstrip=False, rstrip=False, normalized=False, single_word=False)
    return dict(content=content, **defaults, special=True) | flags


CASES = {
    # What is added to a raw prompt.
    "post-processor: bos": (around(byte_level()), {"tokenizer_config": FAST | ENDS}),
    "post-processor: eos": (
        around(byte_level(), None, "</s>"),
        {"tokenizer_config": FAST | ENDS},
    ),
    "post-processor: both": (
        around(metaspace(), "<s>", "</s>"),
        {"tokenizer_config": FAST | ENDS | {"add_bos_token": False}},
    ),
    "no post-processor": (
        with_added(byte_level(), *(AddedToken(x, special=True) for x in ENDS.values())),
        {"tokenizer_config": FAST | ENDS | {"add_bos_token": True}},
    ),
    "gemma": (
        around(gemma(), "<bos>", "<eos>"),
        {"tokenizer_config": {"tokenizer_class": "GemmaTokenizer"} | GEMMA},
    ),
    "sentencepiece": (sentencepiece(), {"tokenizer_config": LLAMA | ENDS}),
    "sentencepiece: bos": (
        sentencepiece(),
        {"tokenizer_config": LLAMA | ENDS | {"add_bos_token": True, "legacy": True}},
    ),
    "sentencepiece: eos": (
        sentencepiece(),
        {"tokenizer_config": LLAMA | ENDS | {"add_eos_token": True, "legacy": False}},
    ),
    "sentencepiece: no prefix": (
        sentencepiece(),
        {"tokenizer_config": LLAMA | ENDS | {"add_prefix_space": False}},
    ),
    # Tokens beside the vocabulary.
    "added_tokens.json": (
        byte_level(),
        {
            "tokenizer_config": FAST | {"eos_token": "<|end|>"},
            "added_tokens": {"<|end|>": 262, "<|user|>": 263},
        },
    ),
    "added_tokens_decoder": (
        byte_level(),
        {
            "tokenizer_config": FAST
            | {
                "pad_token": "<pad>",
                "added_tokens_decoder": {
                    "262": token("<|user|>", rstrip=True),
                    "263": token("<|end|>", special=False),
                },
            }
        },
    ),
    "extra_special_tokens": (
        byte_level(),
        {"tokenizer_config": FAST | {"extra_special_tokens": ["<|user|>", "<|end|>"]}},
    ),
    "additional_special_tokens": (
        metaspace(),
        {
            "tokenizer_config": FAST,
            "special_tokens_map": {
                "additional_special_tokens": ["<|user|>", "<|end|>"],
                "eos_token": "</s>",
            },
        },
    ),
    "pad of the configuration": (
        metaspace(),
        {"tokenizer_config": FAST | ENDS | {"pad_token": "<pad>"}},
    ),
    "map before configuration": (
        metaspace(),
        {
            "tokenizer_config": FAST | {"eos_token": "<s>"},
            "special_tokens_map": {"eos_token": token("</s>")},
        },
    ),
    "ordinary piece as a special one": (
        byte_level(),
        {"tokenizer_config": FAST | {"eos_token": "the"}},
    ),
    "sentencepiece: added": (
        sentencepiece(),
        {
            "tokenizer_config": LLAMA | ENDS | {"legacy": False},
            "added_tokens": {"<|user|>": 319, "<|end|>": 320},
        },
    ),
    "split_special_tokens": (
        around(byte_level()),
        {"tokenizer_config": FAST | ENDS | {"split_special_tokens": True}},
    ),
    # Templates.
    "None and roles": (byte_level(), {"tokenizer_config": FAST, "jinja": CONTENT}),
    "names": (
        byte_level(),
        {
            "tokenizer_config": FAST
            | {
                "sep_token": "<sep>",
                "cls_token": "<cls>",
                "image_token": "<image>",
                "extra_special_tokens": {"gone": "<gone>"},
            },
            "jinja": NAMES,
        },
    ),
    "two templates": (
        byte_level(),
        {"tokenizer_config": FAST | {"chat_template": TWO}},
    ),
    "two files": (
        byte_level(),
        {
            "tokenizer_config": FAST | {"chat_template": "neither"},
            "jinja": "default",
            "additional_chat_templates/tool_use": "tools {{ tools | tojson }}",
        },
    ),
}
"""A tokenizer and the files beside it, by name."""

TEXTS = [
    "",
    "the banana",
    " the 12\n\n",
    "<s>the</s>an",
    "the <|user|> ana<|end|> é",
    "<|end|>\nthe<unk>",
]
MESSAGES = [
    {"role": "user", "content": "the", "name": None},
    {"role": "assistant", "content": None, "tool_calls": [{"a": None}]},
]
TOOLS = {"none": None, "function": [lookup], "schema": [{"type": "function"}]}


def write(directory, case):
    """The directory of a case."""
    vocabulary, files = CASES[case]
    directory.mkdir(parents=True)
    if isinstance(vocabulary, bytes):
        (directory / "tokenizer.model").write_bytes(vocabulary)
    else:
        vocabulary.save(str(directory / "tokenizer.json"))
    for name, content in files.items():
        if isinstance(content, dict):
            (directory / f"{name}.json").write_text(json.dumps(content))
            continue
        path = directory / f"{name.replace('jinja', 'chat_template')}.jinja"
        path.parent.mkdir(exist_ok=True)
        path.write_text(content)
    return directory


def answers_of(tokenizer):
    """What `transformers` says of a directory, as far as a case has it."""
    encoded = [tokenizer.encode(x, add_special_tokens=False) for x in TEXTS]
    said = {
        "size": len(tokenizer),
        "encode": encoded,
        "decode": [tokenizer.decode(x, skip_special_tokens=True) for x in encoded],
        "prompt": [tokenizer(x).input_ids for x in TEXTS],
        "eos": tokenizer.eos_token_id,
        "pad": tokenizer.pad_token_id,
    }
    if tokenizer.chat_template is not None:
        said["chat"] = {
            name: tokenizer.apply_chat_template(MESSAGES, tools=tools, tokenize=False)
            for name, tools in TOOLS.items()
        }
    return said


def main():
    import tempfile

    from transformers import AutoTokenizer

    with tempfile.TemporaryDirectory() as folder:
        paths = {x: write(Path(folder) / str(i), x) for i, x in enumerate(CASES)}
        said = {
            x: answers_of(AutoTokenizer.from_pretrained(path))
            for x, path in paths.items()
        }
    lines = [f"{json.dumps(x)}: {json.dumps(said[x])}" for x in said]
    ANSWERS.write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
