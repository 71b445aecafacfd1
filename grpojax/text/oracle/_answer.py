"""Where an answer is, by regular expressions."""

import re
from typing import NamedTuple


class Content(NamedTuple):
    """As `grpojax.text._answer.Content`, with the text of the content itself."""

    text: bytes
    take_last: bool = False
    marked: bool = False
    plain: bool = True


def find_content(text: bytes, find: str) -> Content:
    """The content of a text; an empty one if there is none."""
    rest = after_thinking(text)
    if find == "auto":
        found = _tag(rest, b"answer") is not None and "tag"
        found = found or (_box(rest) is not None and "boxed")
        find = found or ("####" if b"####" in rest else "last")
    if find in ("last", "all"):
        return Content(_stripped(rest), take_last=find == "last")
    if find == "boxed":
        return Content(_stripped(_box(rest) or b""))
    if find == "tag" or re.fullmatch("<[^ ]*>", find):
        tag = b"answer" if find == "tag" else find[1:-1].encode()
        marks = re.findall(rb"</?" + tag + rb">", text)
        once = marks == [b"<" + tag + b">", b"</" + tag + b">"]
        inside = _tag(rest, tag)
        return _unboxed(rest, inside, plain=once)
    _, marker, after = rest.rpartition(find.encode())
    line = re.sub(rb"[\n\r].*", b"", after.lstrip(), flags=re.DOTALL)
    found = line if marker else None
    return _unboxed(rest, found, marked=True, plain=bool(marker))


def after_thinking(text: bytes) -> bytes:
    if text.rfind(b"<think>") > text.rfind(b"</think>"):
        return b""
    return text.rpartition(b"</think>")[2]


def _tag(text: bytes, tag: bytes) -> bytes | None:
    opening, closing = b"<" + tag + b">", b"</" + tag + b">"
    paired, found, _ = text.rpartition(closing)
    if not found or opening not in paired:
        return None
    return text[paired.rindex(opening) + len(opening) :].split(closing)[0]


def _box(text: bytes) -> bytes | None:
    boxes = list(re.finditer(rb"\\f?box(?:ed)?\{", text))
    boxes = [box for box in boxes if box[0] in (b"\\boxed{", b"\\fbox{")]
    if not boxes:
        return None
    begin, depth = boxes[-1].end(), 0
    for brace in re.finditer(rb"(?<!\\)[{}]", text[begin:]):
        depth += 1 if brace[0] == b"{" else -1
        if depth < 0:
            return text[begin : begin + brace.start()]
    return None


def _unboxed(
    text: bytes, content: bytes | None, *, marked: bool = False, plain: bool
) -> Content:
    """The box inside a content, or the content; any box where there is none."""
    inner = _box(text if content is None else content)
    found = _stripped((content or b"") if inner is None else inner)
    return Content(found, marked=marked, plain=plain and inner is None)


def _stripped(text: bytes) -> bytes:
    return text.strip(b" \t\n\v\f\r\0")
