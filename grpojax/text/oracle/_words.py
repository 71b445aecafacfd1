"""Letters of choices and texts as answers, by regular expressions."""

import re

from ._answer import find_content


def parse_choice(
    text: bytes, find: str = "auto", *, letters: str = "ABCD", plain: bool = False
) -> int | None:
    """The index of the letter that a text gives as its answer."""
    content = find_content(text, find)
    around = rb"[\s()\[\]{}.,:;!?*_\"'`$\\#-]*"
    article = rb"(?<![A-Za-z,] )[AI](?= [a-z])(?!(?<=A) (?:and|or|is) )"
    letter = rb"(?!%b)(?<![A-Za-z0-9])[%b](?![A-Za-z0-9])" % (article, letters.encode())
    found = list(re.finditer(letter, content.text))
    sole = re.fullmatch(around + rb"([A-Za-z])" + around, content.text)
    begins = re.match(around + letter, content.text)
    if content.take_last and not sole:
        if not found or _is_alternative(content.text, found):
            return None
        return letters.index(found[-1][0].decode())
    written = content.plain and begins and (content.marked or sole)
    if plain and not (written or content.take_last):
        return None
    kinds = {match[0] for match in found} or {sole and sole[1].upper()}
    (kind, *others) = kinds
    if others or kind is None or kind.decode() not in letters:
        return None
    return letters.index(kind.decode())


def _is_alternative(text: bytes, found: list[re.Match[bytes]]) -> bool:
    others = [match for match in found if match[0] != found[-1][0]]
    if not others:
        return False
    between = text[others[-1].end() : found[-1].start()]
    words = re.sub(rb"[^A-Za-z0-9]", b"", between)
    return words == b"" or (words in (b"or", b"and") and words in between)


def parse_text(text: bytes, find: str = "auto", *, plain: bool = False) -> bytes:
    """The text that a text gives as its answer."""
    content = find_content(text, find)
    answer = content.text if content.plain or not plain else b""
    if content.take_last:
        answer = re.split(rb"[\n\r]", answer)[-1]
    answer = answer.strip(b" \t\n\v\f\r\0")
    style = re.fullmatch(rb"\\(?:text|textbf|textit|mathrm|mathbf)\{([^{}]*)\}", answer)
    return style[1].strip(b" \t\n\v\f\r\0") if style else answer


def normalize(text: bytes) -> bytes:
    """A text without what does not make a difference."""
    text = re.sub(rb"[A-Z]", lambda match: match[0].lower(), text)
    text = re.sub(
        rb"(?<=\xc3)[\x80-\x96\x98-\x9e]", lambda match: bytes([match[0][0] + 32]), text
    )
    quotes = rb"\xe2\x80[\x98\x99\x9c\x9d]"
    ends = rb"(?:[\s.,;:!?\"'`*$]|%b)*" % quotes
    text = re.sub(ends + rb"\Z", b"", re.sub(rb"\A" + ends, b"", text))
    text = re.sub(rb"(?:(?<=\s)|\A)(?:an?|the)\s+", b"", text)
    return re.sub(rb"\s+", b" ", text)
