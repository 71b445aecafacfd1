"""The rim: what surrounds the step, side effects included.

Each module is public, and is imported by name (`from grpojax.runs import recipes`):

- `recipe`: what a run is, every key with its default; `Recipe`.
- `recipes`: recipes as files; `load`, `dump`.
- `parts`: from a recipe's names to what runs; `build_environments`, `load_model`.
- `training`, `evaluating`, `generating`: what the commands do; `train`, `evaluate`,
    `generate`, each in two halves, `prepare` and `run`.
- `estimating`: what a run would need; `estimate`.
- `commands`: the command line; `main`.
- `loop`: the train step compiled, and called; `lower`, `fit`.
- `journal`: what a run writes down while it goes on; `Journal`.
- `completions`: what was said, as records; `records`.
- `evaluation`: how good a policy is on a data set; `evaluate`.
- `outcome`: what was said, and what it is worth; `Evaluation`.
- `predictions`: the same as a file that survives a kill; `read`.
- `statistics`: how sure that is; `wilson`, `mean_over_problems`, `pass_at_k`.
- `fingerprint`: what tells a model or a data set from another.
- `files`: what a run leaves behind; `RunDirectory`, `write_json`, `append_json`.
- `checkpoints`: states to go on from; `Checkpoints`.
- `changes`: what of a recipe may change on the way; `check_recipe`.
- `sinks`: where metrics go; `JsonLines`, `TensorBoard`, `WandB`, `Trackio`, `FailSafe`.
- `guards`: whether a run is still worth its time; `Guard`, `Bounds`.
- `preemption`: being asked to leave; `Preemption`, `EXIT_PREEMPTED`.
- `placement`: which devices compute, and how arrays get there; `build_mesh`.
- `processes`: many of them that compute one run; `joined`, `share`, `anyone`.
- `supervision`: a process that another looks after; `fork_supervised`, `EXIT_PEER`.
- `progress`: a live bar; `Progress`.
- `plots`: curves; `plot_curve`.
- `reports`: what runs have come to, in Markdown and as a page; `write_report`.

`recipe`, `recipes`, `commands`, `reports`, `outcome`, `predictions`, `statistics`,
`supervision` and `files` import no JAX: what merely prints a recipe starts at once.
"""
