"""Laws that every kind of tokenizer obeys, on vocabularies trained here."""

import json
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, HealthCheck, settings, strategies as st

from grpojax.text import load_tokenizer


PROPERTY = settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
texts = st.text(max_size=12) | st.sampled_from(
    ["#### -1,234", " 18", "  two\n", "café", "<tool>", "a b", "日本", "\u2028"]
)
# `unigram` has sentencepiece's own default: runs of spaces become one.
# `metaspace` puts no space before a text that begins with one.
LOSSLESS = ["byte_level", "gemma", "llama", "bpe", "bpe_prefix"]
PREFIX = ["llama", "metaspace", "bpe_prefix", "unigram"]


def decoded_bytes(kind, tokenizer, ids):
    """What `decode` must give, from the bytes: these, less a dummy prefix."""
    content = tokenizer.token_bytes.join(ids)
    visible = [token for token in ids if tokenizer.token_bytes.join([token])]
    begins = bool(visible) and tokenizer.piece(visible[0]).startswith("▁")
    if kind == "llama" or (kind in ("metaspace", "bpe_prefix") and begins):
        return content.removeprefix(b" ")
    return content


@PROPERTY
@given(parts=st.lists(texts, max_size=4), data=st.data())
def test_bytes_are_what_decode_says(kind, tokenizer, parts, data):
    ids = [token for part in parts for token in tokenizer.encode(part)]
    drawn = data.draw(st.lists(st.integers(0, tokenizer.vocab_size - 1), max_size=6))
    valid = [token for token in drawn if is_utf8(tokenizer.token_bytes.join([token]))]
    half = len(valid) // 2
    ids = [*valid[:half], *ids, *valid[half:]]
    decoded = tokenizer.decode(ids).encode()
    if kind == "unigram":
        # Every leading space goes that was not written as a byte.
        content = tokenizer.token_bytes.join(ids)
        assert content.endswith(decoded)
        assert set(content.removesuffix(decoded)) <= set(b" ")
    else:
        assert decoded == decoded_bytes(kind, tokenizer, ids)


def is_utf8(content):
    try:
        content.decode()
    except UnicodeDecodeError:
        return False
    return True


@PROPERTY
@given(content=texts)
def test_encoding_is_lossless(kind, tokenizer, content):
    if kind not in LOSSLESS or "▁" in content:
        return  # U+2581 is sentencepiece's own way to write a space.
    ids = tokenizer.encode(content)
    space = b" " if kind in PREFIX and content else b""
    assert tokenizer.token_bytes.join(ids) == space + content.encode()
    assert tokenizer.decode(ids) == content


def test_a_completion_may_begin_with_a_space(tokenizer):
    # "▁more" or "Ġmore": decoding a text may drop the space, a completion has it.
    pieces = map(tokenizer.piece, range(tokenizer.vocab_size))
    spaced = [token for token, piece in enumerate(pieces) if piece[0] in "▁Ġ"]
    assert spaced
    for token in spaced:
        assert tokenizer.token_bytes.join([token])[:1] == b" "


def test_every_token_has_its_bytes(kind, tokenizer):
    table = tokenizer.token_bytes
    assert table.length.shape == (tokenizer.vocab_size,)
    assert tokenizer.token_bytes is table
    assert tokenizer.piece(tokenizer.vocab_size) is None
    for token in range(tokenizer.vocab_size):
        content = table.join([token])
        if is_utf8(content):
            # Between two others, no token begins a text.
            around = tokenizer.encode("x")
            expected = table.join(around) + content + table.join(around)
            decoded = tokenizer.decode([*around, token, *around])
            assert decoded.encode() == expected.removeprefix(
                b" " if kind in PREFIX else b""
            )


def test_special_tokens_are_seen_and_have_no_bytes(tokenizer):
    start, end = map(tokenizer.token_id, ("<|im_start|>", "<|im_end|>"))
    ids = tokenizer.encode("<|im_start|>user<|im_end|><|im_end|>")
    assert ids[0] == start and ids[-2:] == [end, end] and ids.count(end) == 2
    assert tokenizer.decode(ids) == "user"
    assert tokenizer.token_bytes.join([start, end]) == b""
    assert tokenizer.piece(start) == "<|im_start|>"
    assert tokenizer.encode("<|im_end|>!") == [tokenizer.token_id("<|im_end|>!")]
    assert tokenizer.token_id("no such piece") is None


def test_nothing_is_added_or_cut(tokenizer):
    # One tokenizer.json asks for padding to 6 and truncation to 4.
    assert tokenizer.encode("") == []
    assert len(tokenizer.encode("1")) <= 2
    assert len(tokenizer.encode("1 2 3 4 5 6 7 8 9")) >= 9


def test_digits_are_tokens_of_their_own(tokenizer, kind):
    if kind in ("byte_level", "bpe", "bpe_prefix", "unigram"):
        digits = [t for t in tokenizer.encode("x1234") if tokenizer.piece(t).isdigit()]
        assert len(digits) == 4


def test_ids_without_a_token_are_skipped(tokenizer):
    ids = tokenizer.encode("x")
    strange = [tokenizer.vocab_size, tokenizer.vocab_size + 7, -1]
    assert tokenizer.decode([*ids, *strange]) == tokenizer.decode(ids)


def test_ids_may_be_arrays(tokenizer):
    ids = tokenizer.encode("Anna has 3")
    for array in (np.asarray(ids), jnp.asarray(ids, jnp.int32)):
        assert tokenizer.decode(array) == "Anna has 3"
        assert tokenizer.token_bytes.join(array) == tokenizer.token_bytes.join(ids)


def test_importing_is_cheap():
    script = "import grpojax.text, sys; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    loaded = set(run.stdout.split())
    assert "grpojax.text" in loaded
    assert not loaded & {"tokenizers", "sentencepiece", "jinja2", "huggingface_hub"}


def test_save_and_load(kind, tokenizer, directory, tmp_path):
    made = directory(
        kind,
        tokenizer_config={"eos_token": "<|im_end|>"},
        chat_template="{{ messages[0].content }}",
        config={"vocab_size": 7},
    )
    loaded = load_tokenizer(made)
    loaded.save(tmp_path / "a" / "b")
    saved = {path.name: path.read_bytes() for path in (tmp_path / "a" / "b").iterdir()}
    original = {path.name: path.read_bytes() for path in made.glob("*.*")}
    assert original.pop("config.json") and saved == original
    again = load_tokenizer(str(tmp_path / "a" / "b"))
    assert again.encode("Anna has 3") == tokenizer.encode("Anna has 3")
    assert again.chat([{"role": "user", "content": "Bo"}]) == tokenizer.encode("Bo")
    assert again.end_tokens == (tokenizer.token_id("<|im_end|>"),)


def test_a_single_file_is_saved_where_it_is_found(vocabularies, kind, tmp_path):
    load_tokenizer(vocabularies[kind]).save(tmp_path)
    (only,) = tmp_path.iterdir()
    assert only.read_bytes() == vocabularies[kind].read_bytes()
    assert load_tokenizer(tmp_path).encode("Dan") == load_tokenizer(only).encode("Dan")


def test_a_directory_with_one_model_of_any_name(vocabularies, tmp_path):
    (tmp_path / "spm.model").write_bytes(vocabularies["bpe"].read_bytes())
    assert (
        load_tokenizer(tmp_path).decode(load_tokenizer(tmp_path).encode("Bo")) == "Bo"
    )
    (tmp_path / "other.model").write_bytes(vocabularies["unigram"].read_bytes())
    with pytest.raises(FileNotFoundError, match="2 \\*.model files"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_bytes(vocabularies["byte_level"].read_bytes())
    assert load_tokenizer(tmp_path).token_id("<0x0A>") is None  # It is preferred.


@pytest.mark.parametrize(
    "files, expected",
    [
        (dict(generation_config={"eos_token_id": [7, 3]}), (7, 3)),
        (
            dict(
                generation_config={"eos_token_id": 7},
                tokenizer_config={"eos_token": "<|im_end|>"},
            ),
            (7, "<|im_end|>"),
        ),
        (
            dict(
                generation_config={},
                tokenizer_config={"eos_token": "<|im_end|>"},
                config={"eos_token_id": 5},
            ),
            ("<|im_end|>",),
        ),
        (
            dict(tokenizer_config={"eos_token": {"content": "<|im_end|>"}}),
            ("<|im_end|>",),
        ),
        (
            dict(
                tokenizer_config={"eos_token": None},
                special_tokens_map={"eos_token": "<|im_end|>"},
            ),
            ("<|im_end|>",),
        ),
        (
            dict(
                generation_config={"eos_token_id": [307, 7]},
                tokenizer_config={"eos_token": "<|im_end|>"},
            ),
            ("<|im_end|>", 7),
        ),
        (dict(config={"eos_token_id": [5, 0]}), (5, 0)),
        ({}, ()),
    ],
)
def test_end_tokens(directory, files, expected):
    tokenizer = load_tokenizer(directory(**files))
    ids = [tokenizer.token_id(x) if isinstance(x, str) else x for x in expected]
    assert tokenizer.end_tokens == tuple(ids)


def test_sentencepiece_says_its_special_tokens_itself(vocabularies, directory):
    tokenizer = load_tokenizer(vocabularies["bpe_prefix"])
    assert (tokenizer.bos_token, tokenizer.end_tokens, tokenizer.pad_token) == (
        1,
        (2,),
        3,
    )
    assert load_tokenizer(vocabularies["bpe"]).pad_token is None
    renamed = directory("bpe", tokenizer_config={"eos_token": "<|im_end|>"})
    end = load_tokenizer(renamed)
    assert end.end_tokens == (end.token_id("<|im_end|>"),)


def test_padding_may_be_an_end_token(directory):
    names = {"pad_token": "<|im_end|>", "eos_token": "<|im_end|>"}
    tokenizer = load_tokenizer(directory(tokenizer_config=names))
    assert tokenizer.pad_token in tokenizer.end_tokens
    assert tokenizer.bos_token is None


def test_messages(tmp_path):
    with pytest.raises(FileNotFoundError, match="check the path"):
        load_tokenizer(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="0 \\*.model files"):
        load_tokenizer(tmp_path)
    (tmp_path / "words.txt").write_text("a")
    with pytest.raises(ValueError, match="ends in .json"):
        load_tokenizer(tmp_path / "words.txt")
    (tmp_path / "tiktoken.model").write_text("IQ== 0\n")
    with pytest.raises(ValueError, match="tiktoken"):
        load_tokenizer(tmp_path / "tiktoken.model")
    (tmp_path / "broken.json").write_text("{}")
    with pytest.raises(ValueError, match="installed `tokenizers`"):
        load_tokenizer(tmp_path / "broken.json")


@pytest.mark.parametrize(
    "decoder",
    [
        None,
        {"type": "WordPiece", "prefix": "##", "cleanup": True},
        {"type": "Strip", "content": " ", "start": 1, "stop": 0},
        {
            "type": "Sequence",
            "decoders": [
                {"type": "ByteFallback"},
                {"type": "Strip", "content": " ", "start": 1, "stop": 0},
                {"type": "Fuse"},
            ],
        },
        {"type": "Replace", "pattern": {"Regex": "x"}, "content": " "},
    ],
)
def test_no_bytes_where_they_would_be_wrong(vocabularies, tmp_path, decoder):
    declared = json.loads(vocabularies["gemma"].read_bytes())
    (tmp_path / "tokenizer.json").write_text(
        json.dumps(declared | {"decoder": decoder})
    )
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.encode("Bo")
    with pytest.raises(ValueError, match="follows from their bytes"):
        _ = tokenizer.token_bytes


def test_hub(monkeypatch, directory):
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    asked = {}
    made = directory()

    def download(name, *, allow_patterns):
        asked[name] = allow_patterns
        return str(made)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert load_tokenizer("organization/model-1.5").encode("Bo")
    (patterns,) = asked.values()
    assert "tokenizer.json" in patterns and not any(
        "safetensors" in p for p in patterns
    )

    def unreachable(name, *, allow_patterns):
        raise LocalEntryNotFoundError(f"no {name}, {allow_patterns}")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", unreachable)
    with pytest.raises(FileNotFoundError, match="Check the name and the connection"):
        load_tokenizer("organization/model-1.5")
