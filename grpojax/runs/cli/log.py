"""What the library logs, on standard error."""

import logging

from ..io.terminal import printable


def _spell_out_controls(record: logging.LogRecord) -> bool:
    record.msg, record.args = printable(record.getMessage()), ()
    return True


def log_from(level: str) -> None:
    """Sends what `grpojax` logs from a level on to standard error."""
    levels = logging.getLevelNamesMapping()
    if level.upper() not in levels:
        raise ValueError(
            f"LOGLEVEL must be one of {', '.join(levels)}. Received {level!r}."
        )
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s")
    for handler in logging.getLogger().handlers:
        handler.addFilter(_spell_out_controls)
    logging.getLogger("grpojax").setLevel(levels[level.upper()])
