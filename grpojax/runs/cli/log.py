"""What the library logs, on standard error."""

import logging

from ..io.terminal import message, printable


_FORMAT = "%(levelname)s %(name)s: %(message)s"


class _Printable(logging.Formatter):
    """A formatter whose control characters are spelled out, and long messages cut.

    The record stays as it is: other handlers read its arguments.
    """

    def __init__(self, formatter: logging.Formatter):
        super().__init__()
        self._formatter = formatter

    def format(self, record: logging.LogRecord) -> str:
        text = self._formatter.format(record)
        return printable(text) if record.exc_info else message(text)


def log_from(level: str) -> None:
    """Sends what `grpojax` logs from a level on to standard error."""
    levels = logging.getLevelNamesMapping()
    if level.upper() not in levels:
        raise ValueError(
            f"LOGLEVEL must be one of {', '.join(levels)}. Received {level!r}."
        )
    logging.basicConfig(format=_FORMAT)
    for handler in logging.getLogger().handlers:
        formatter = handler.formatter or logging.Formatter(_FORMAT)
        if not isinstance(formatter, _Printable):
            handler.setFormatter(_Printable(formatter))
    logging.getLogger("grpojax").setLevel(levels[level.upper()])
