"""What a tokenizer's files declare and cannot be is refused; what they hold is kept."""

import pytest

from envs.questions import PromptFormat
from grpojax.runs.cli import generate
from grpojax.runs.recipe.load import load
from grpojax.runs.recipe.schema import Recipe
from grpojax.text import load_tokenizer
from tests.text import peers


def changed(directory, **changes):
    """The directory of a case, with other values in its tokenizer_config.json."""
    peers.CASES["changed"] = (peers.byte_level(), {"tokenizer_config": changes})
    try:
        return peers.write(directory, "changed")
    finally:
        del peers.CASES["changed"]


def test_an_end_that_no_file_knows_is_refused(tmp_path):
    path = changed(tmp_path / "a", eos_token="<|gone|>")
    with pytest.raises(ValueError, match="`eos_token` = '<|gone|>'.*never end"):
        load_tokenizer(path)


def test_a_token_gets_the_declared_id_or_none(tmp_path):
    listed = {"280": peers.token("<|end|>")}
    path = changed(tmp_path / "a", added_tokens_decoder=listed)
    with pytest.raises(ValueError, match="'<|end|>' with the id 280.* is 262"):
        load_tokenizer(path)
    path = changed(tmp_path / "b", extra_special_tokens=[7])
    with pytest.raises(ValueError, match="Received 7 in `extra_special_tokens`"):
        load_tokenizer(path)


def test_sentencepiece_does_not_strip_around_a_token(tmp_path):
    path = changed(
        tmp_path / "a", added_tokens_decoder={"319": peers.token("<x>", rstrip=True)}
    )
    (path / "tokenizer.json").unlink()
    (path / "tokenizer.model").write_bytes(peers.sentencepiece())
    with pytest.raises(ValueError, match="'<x>' with `lstrip`, `rstrip`"):
        load_tokenizer(path)


@pytest.mark.parametrize("case", ["two files", "additional_special_tokens"])
def test_every_file_survives_a_save(case, tmp_path):
    path = peers.write(tmp_path / "a", case)
    (path / "merges.txt").write_text("a n")
    (path / "tokenizer.model").write_bytes(b"sentencepiece's")
    files = {x.relative_to(path): x.read_bytes() for x in path.rglob("*.*")}
    copy = tmp_path / "b"
    (copy / "additional_chat_templates").mkdir(parents=True)
    stale = copy / "additional_chat_templates" / "other.jinja"
    for old in (stale, copy / "added_tokens.json"):
        old.write_text("of another tokenizer")
    (copy / "notes.txt").write_text("mine")
    load_tokenizer(path).save(copy)
    saved = {x.relative_to(copy): x.read_bytes() for x in copy.rglob("*.*")}
    assert saved.pop((copy / "notes.txt").relative_to(copy)) == b"mine"
    assert saved == files


def undescribed(city: str) -> None:
    """Looks the weather up."""


def unhinted(city) -> None:
    """Looks the weather up.

    Args:
        city: The place.
    """


def object_hint(city: object) -> None:
    """Looks the weather up.

    Args:
        city: The place.
    """


@pytest.mark.parametrize(
    "tool, words",
    [
        (undescribed, "with 'city'"),
        (unhinted, "type hints, of 'city'"),
        (object_hint, "has no schema"),
        (lambda city: city, "described in its docstring"),
        (int, "a JSON schema or a function"),
    ],
)
def test_a_tool_without_a_schema_is_refused(tool, words, tmp_path):
    tokenizer = load_tokenizer(peers.write(tmp_path / "a", "two templates"))
    with pytest.raises(ValueError, match=words):
        tokenizer.chat_text(peers.MESSAGES, tools=[tool])


def test_a_raw_prompt_begins_as_the_tokenizer_begins_a_text(tmp_path):
    """Environments encode a text as `tokenizer(text)`; a chat template has its own."""
    path = peers.write(tmp_path / "a", "post-processor: bos")
    (path / "chat_template.jinja").write_text("{{ messages[0].content }}")
    tokenizer = load_tokenizer(path)
    begin = tokenizer.token_id("<s>")
    row = {"question": "the 12"}
    raw = PromptFormat().encode(tokenizer, row)
    chat = PromptFormat(chat=True).encode(tokenizer, row)
    assert raw == [begin, *chat] and chat == tokenizer.encode("the 12")
    shots = PromptFormat(system_prompt="an").encode(tokenizer, row, [("ana", "12")])
    assert shots == [begin, *tokenizer.encode("an\n\nana 12\n\nthe 12")]
    # And so does `grpojax generate --prompt`.
    assert generate._tokens(Recipe(), tokenizer, "the 12") == raw
    chat_recipe = load(Recipe(), None, ["data.chat=true"])
    assert generate._tokens(chat_recipe, tokenizer, "the 12") == chat
