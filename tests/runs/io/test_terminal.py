"""What is shown in a terminal: nothing that moves its cursor, and a screen at most."""

import logging
import sys

from grpojax.runs.cli.process import log_from
from grpojax.runs.io.terminal import message, MOST_CHARACTERS


def test_a_long_message_keeps_both_ends():
    quoted = "x" * 500_000_000
    shown = message(f"The value must be short. Received {quoted!r}: cut it.")
    assert shown.startswith("The value must be short. Received 'xxx")
    assert shown.endswith("xxx': cut it.") and "[... 499,9" in shown
    assert len(shown) < MOST_CHARACTERS + 50
    assert message("As it is.") == "As it is."
    assert message("\x1b[2J") == "\\x1b[2J"


def test_records_are_cut_but_tracebacks_are_not():
    root = logging.getLogger()
    kept = [(handler, handler.formatter) for handler in root.handlers]
    handler = logging.StreamHandler()
    root.addHandler(handler)
    try:
        log_from("WARNING")
        make = lambda **more: logging.makeLogRecord({"msg": "y" * 9000, **more})
        assert len(handler.format(make())) < MOST_CHARACTERS + 100
        try:
            raise ValueError("z" * 9000)
        except ValueError:
            traced = handler.format(make(exc_info=sys.exc_info()))
        assert traced.count("z") >= 9000 and traced.count("y") >= 9000
    finally:
        root.removeHandler(handler)
        for handler, formatter in kept:
            handler.setFormatter(formatter)
