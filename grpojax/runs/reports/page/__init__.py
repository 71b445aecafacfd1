"""The self-contained HTML page: template, style and scripts."""

from .completions import MAX_CHARACTERS as MAX_CHARACTERS, page_rows as page_rows
from .html import page as page
