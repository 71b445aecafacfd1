"""The text of a report: Markdown from templates, and HTML from that Markdown."""
