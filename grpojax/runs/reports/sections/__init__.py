"""The text of a report, section by section, as blocks of `document`."""

from .comparison import comparison as comparison
from .completions import last_completions as last_completions
from .configuration import all_settings as all_settings
from .metrics import (
    curve_table as curve_table,
    figures as figures,
    missing_panels as missing_panels,
)
from .overview import overview as overview
