"""What runs have come to, as Markdown and as a page; reads files, and no JAX."""

from ._write import write_report as write_report
