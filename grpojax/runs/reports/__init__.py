"""Reports of runs, as Markdown and as one HTML page; read files only, need no JAX."""

from .catalogue import write_catalogue as write_catalogue
from .write import write_report as write_report
