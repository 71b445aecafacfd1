"""Rows of data: where they are from, which are used, and which are held out."""

from ._load import (
    column_of as column_of,
    load_rows as load_rows,
    LoadedRows as LoadedRows,
    Row as Row,
)
from ._split import RowRules as RowRules, Split as Split, split_rows as split_rows
