"""Numbers as answers, by regular expressions."""

import re
from fractions import Fraction

from ._answer import Content, find_content


_SEPARATOR = rb"(?:[,'_]|\{,\}|\\,|%b)" % "\u00a0|\u2009|\u202f|\u2019".encode()
_LITERAL = re.compile(
    rb"(?:(?<![0-9A-Za-z).])\.)?[0-9](?:(?:%b|\.)?[0-9])*" % _SEPARATOR
)
_SCRIPT = re.compile(rb"[A-Za-z}][\^_]\{?\Z")
_GROUPED = re.compile(
    rb"[0-9]+|(?!0)[0-9]{1,3}(?:,[0-9]{3})+|(?!0)[0-9]{1,2}(?:,[0-9]{2})*,[0-9]{3}"
)
_BLANK = rb"[ \t\v\f]"
_SKIPPED = rb"(?:[ \t\v\f$\\*]|\xc2[\xa2-\xa5]|\xe2\x82[\xa0-\xbf])*"
_MINUS = rb"(?:-|%b|%b)" % ("\u2212".encode(), "\u2013".encode())
_OPERATOR = rb"(?:[/^+]|%b|%b|\\times|\\cdot|(?<=\s)or)" % ("×".encode(), "÷".encode())
_FORBIDDEN = rb"(?:<|\\pm|[<>!]=|(?<=[^\0\n\r]) >|%b)" % "±|≤|≥|≠".encode()
_RESULT = re.compile(rb"(?<![<>!])=|(?<=>)>")
_STOP = re.compile(rb"[.!](?![\s\0][0-9])(?=[\s\0]|\Z)")
_LIST = re.compile(rb"(?=[,;]| or | and )")
_CONTINUED = re.compile(
    rb"[A-Za-z]+[0-9]|[\s*]*(?:\\pi|%b|\xe2\x81[\xb0-\xb9]|\xe2\x85[\x90-\x9e])"
    % "π|²|³|¹|¼|½|¾".encode()
)


def parse_integer(
    text: bytes, find: str = "auto", *, plain: bool = False
) -> int | None:
    """The integer that a text gives as its answer."""
    content = find_content(text, find)
    match = _literal(content, plain)
    if match is None or re.fullmatch(rb"[^.]+(?:\.0*)?", match[0]) is None:
        return None
    value = _value(content.text, match)
    return None if value is None else int(value)


def parse_decimal(
    text: bytes, find: str = "auto", *, plain: bool = False
) -> Fraction | None:
    """The decimal that a text gives as its answer."""
    content = find_content(text, find)
    match = _literal(content, plain)
    return None if match is None else _value(content.text, match)


def _value(text: bytes, match: re.Match[bytes]) -> Fraction | None:
    """The number of a literal, with the sign before it."""
    literal, point, decimals = match[0].partition(b".")
    whole = re.sub(_SEPARATOR, b",", literal)
    if point and re.fullmatch(rb"[0-9]*", decimals) is None:
        return None
    if literal and _GROUPED.fullmatch(whole) is None:
        return None
    digits = whole.replace(b",", b"").lstrip(b"0") or b"0"
    billionths = (
        int(digits + decimals[:9].ljust(9, b"0")) if len(digits) < 11 else 2**63
    )
    billionths += decimals[9:10] >= b"5"
    if billionths >= 2**31 * 10**9:
        return None
    value = Fraction(billionths, 10**9)
    return -value if _is_negative(text[: match.start()]) else value


def _is_negative(before: bytes) -> bool:
    match = re.search(rb"(?P<sign>%b)%b\Z" % (_MINUS, _SKIPPED), before)
    if match is None:
        return False
    left = before[: match.start()]
    if re.search(_BLANK, match[0]):
        left = left.rstrip(b" \t\v\f")
        if left.endswith((b"\n", b"\r")):
            return False
    return re.search(rb"[0-9A-Za-z)]\Z", left) is None


def _literal(content: Content, plain: bool) -> re.Match[bytes] | None:
    """The literal that is the answer."""
    text = content.text
    literals = [
        match
        for match in _LITERAL.finditer(text)
        if not _SCRIPT.search(text[: match.start()])
    ]
    if not literals:
        return None
    stop = _STOP.search(text, literals[0].end())
    sentence = stop.start() if stop else len(text)
    if content.take_last:
        found = literals[-1]
        part = _is_operand(text[: found.start()]) or _is_part(text, found)
        return None if part else found
    results = [x.start() for x in _RESULT.finditer(text) if x.start() < sentence]
    behind = [x for x in literals if x.start() > max(results, default=-1)]
    if not behind:
        return None
    found, *others = behind
    if plain:
        signed = re.fullmatch(rb"-\$|\$-|-|\$|", text[: found.start()])
        alone = content.marked or text[found.end() :] in (b"", b".")
        return found if content.plain and signed and alone else None
    if len(results) > 1 and _has_list(text, *results[-2:]):
        return None
    more = [match for match in others if match.start() < sentence]
    if any(not re.search(rb"[A-Za-z]\Z", text[: x.start()]) for x in more):
        return None
    return None if _is_part(text, found) else found


def _has_list(text: bytes, begin: int, end: int) -> bool:
    """Whether a comma, a semicolon, `or` or `and` is between two positions."""
    digits = {i for x in _LITERAL.finditer(text) for i in range(*x.span())}
    marks = {x.start() for x in _LIST.finditer(text)} - digits
    return any(begin < mark < end for mark in marks)


def _is_operand(before: bytes) -> bool:
    """Whether an operator and another number are before a literal."""
    left, spaced = _skip(before), False
    minus = re.search(_MINUS + rb"\Z", left)
    if minus:
        spaced = bool(re.search(_BLANK, before[minus.end() :]))
        left = left[: minus.start()]
        if re.search(rb"[0-9)]\Z", left.rstrip(b" \t\v\f") if spaced else left):
            return True
        left = _skip(left)
    between = before[len(left) :]
    operator = re.search(_OPERATOR + rb"\Z", left)
    if operator and re.search(rb"[0-9)}]\Z", _skip(left[: operator.start()])):
        return True
    ratio = not between and re.search(rb"[0-9]:\Z", left)
    product = b"*" in between and re.search(rb"[0-9]\Z", left)
    quotient = left.endswith(b"}{")
    attached = re.search(rb"[0-9][A-Za-z]+\Z", before)
    return bool(ratio or product or quotient or attached)


def _skip(text: bytes) -> bytes:
    """A text without the emphasis and the currency at its end."""
    return re.sub(_SKIPPED + rb"\Z", b"", text)


def _is_part(text: bytes, found: re.Match[bytes]) -> bool:
    """Whether a literal is a part of a number or of an inequality."""
    forbidden = rb"%b%b(?:%b%b)?\Z" % (_FORBIDDEN, _SKIPPED, _MINUS, _SKIPPED)
    before = text[: found.start()]
    return bool(re.search(forbidden, before) or _CONTINUED.match(text, found.end()))
