"""The rim: what surrounds the step, side effects included.

Each module is public, and is imported by name (`from grpojax.runs import recipes`):

- `recipes`: what a run is, as one file; `load`, `dump`.
- `loop`: the train step compiled, and called; `lower`, `fit`.
- `evaluation`: how good a policy is on a data set; `evaluate`.
- `outcome`: what was said, and what it is worth; `Evaluation`.
- `predictions`: the same as a file that survives a kill; `read`.
- `statistics`: how sure that is; `wilson`, `mean_over_problems`, `pass_at_k`.
- `fingerprint`: what tells a model or a data set from another.
- `files`: what a run leaves behind; `RunDirectory`, `write_json`, `append_json`.
- `progress`: a live bar; `Progress`.
- `plots`: curves; `plot_curve`.

Only `loop`, `evaluation` with its `batches`, and `fingerprint` import JAX: what merely
prints a recipe starts at once.
"""
