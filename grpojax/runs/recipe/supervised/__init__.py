"""The warm start of a recipe: rows, their completions, and the supervised step."""
