r"""Final answers: where a text states one, and how it is read.

This is the one grammar of answers, on bytes and in ASCII but for the marks named here.
`grpojax.text.oracle` defines the same functions by regular expressions.

**Where it is.** What is before the last `</think>` is not read. Where a `<think>` is
open at the end of the text there is no answer. In the rest `find` says what the
`content` is:

    "####"          after the last `####` and any space, to the end of that line; any
                    other text that is not a name below is a marker just like it
    "tag"           between the last `<answer>` that is closed and its `</answer>`
    "<result>"      the same with a tag of another name
    "boxed"         in the braces of the last `\boxed{` or `\fbox{`
    "all"           all of it
    "last"          all of it, where the last answer counts
    "auto"          the first of "tag", "boxed", "####" and "last" that occurs

A `\boxed{...}` inside the content of a tag or a marker is the content instead, and so
is the last one of a text without such a tag or marker. Space at both ends is no part of
it.

**Numbers.**

    number   = sign currency literal, with emphasis and space anywhere between them
    sign     = "" | "+" | "-" | U+2212 | U+2013
    currency = "" | "$" | "\$" | a currency sign of Unicode, also before the sign
    literal  = whole ("." digit*)? | "." digit+
    whole    = digit+ | groups of digits, as in 1,234,567 and 12,34,567
    group    = "," | "{,}" | "\," | "'" | U+2019 | "_" | a no-break or thin space

The longest run of digits, groups and points is one literal: if it is not of this form,
as in `1.2.3`, `3,4` and `1.000,0`, it is no number, nor is a part of it. A `-` is no
sign after a digit, a letter or `)`, nor where it makes a line an item of a list.

The content's `sentence` ends at the first `.` or `!` after its first literal that space
follows, and no number. The answer is the first number of the sentence, or the first
after the last `=` or `>>` in it, and must be the last one as well: there is no number
in `1/2`, `5 or 6`, `5-6`, `5 1/2` and `x = 5, y = 6`. Words around it, units and `%`
are not read: `x = 72`, `**72**`, `72 m^2` and `about 72%` are 72. Digits behind a
letter, as in `m2`, are part of a unit after the number, and those behind `m^` and `x_`
anywhere.

With "last" it is the last number of the text, if it is not an operand of `/ * + - ^ :`,
`×`, `÷` or `or` after another number.

There is no number before `π`, `½`, `²` and the like, nor in `5e3` and `5x6`, nor after
`<`, `>`, `≤`, `≥`, `≠` and `±`.

An integer is a number whose digits after the point are 0, of magnitude below 2**31. A
decimal has the same bound, and is rounded to nine digits after the point.

**Plain answers** are what a format reward asks for. After a marker a plain number is
`literal` with `-`, `$`, `-$` or `$-` at the content's beginning, whatever follows. In a
tag, in a box, and with "all", such a number is all of the content, but for a full stop;
there is just one pair of the tag. With "last" every answer is plain.

**Letters of choices.** A choice is a capital letter without a letter or a digit beside
it, except the word `A` or `I` at the beginning of a sentence. The content must have
one, however often; a letter that is all of it, but for punctuation, may be small. With
"last" the last one counts, if it is no alternative to another, as in `A or B`.

**Texts.** The answer is the content, or what is in the `\text{...}` that is all of it;
with "last" it is the last line.

**Options and labels** are in the first pair of their tag, in small or capital letters,
whose content is on one line, without a `<`, and not blank; space around it is no part
of it. An option is `digit+`, or that after the word `option`. A label is one of the
words for it, once all but letters is left out. Plain ones are exactly what is asked
for, in the only pair.
"""

from ._choice import check_letters as check_letters, parse_choice as parse_choice
from ._content import check_find as check_find
from ._first_tag import (
    LabelWords as LabelWords,
    parse_label as parse_label,
    parse_option as parse_option,
)
from ._number import (
    parse_decimal as parse_decimal,
    parse_integer as parse_integer,
    ParsedDecimal as ParsedDecimal,
    ParsedInteger as ParsedInteger,
)
from ._text import (
    equal as equal,
    fingerprint as fingerprint,
    normalize as normalize,
    parse_text as parse_text,
)
