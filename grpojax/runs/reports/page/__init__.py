"""The self-contained HTML page: template, style and scripts."""
