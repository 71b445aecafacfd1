"""The rim: what surrounds the step, side effects included.

Each module is public, and is imported by name (`from grpojax.runs import recipes`):

- `recipes`: what a run is, as one file; `load`, `dump`.
- `loop`: the train step compiled, and called; `lower`, `fit`.
- `evaluation`: how good a policy is on a data set; `evaluate`.
- `statistics`: how sure that is; `wilson`.
- `files`: what a run leaves behind; `RunDirectory`, `write_json`, `append_json`.
- `progress`: a live bar; `Progress`.
- `plots`: curves; `plot_curve`.
- `reports`: what runs have come to, in Markdown and as a page; `write_report`.

Only `loop` and `evaluation` import JAX: what merely prints a recipe starts at once.
"""
