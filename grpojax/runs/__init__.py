"""The rim: what surrounds the step, side effects included.

Each module is public, and is imported by name (`from grpojax.runs import recipes`):

- `recipes`: what a run is, as one file; `load`, `dump`.
- `loop`: the train step compiled, and called; `lower`, `fit`.
- `evaluation`: how good a policy is on a data set; `evaluate`.
- `statistics`: how sure that is; `wilson`.
- `files`: what a run leaves behind; `RunDirectory`, `write_json`, `append_json`.
- `checkpoints`: states to go on from; `Checkpoints`.
- `changes`: what of a recipe may change on the way; `check_recipe`.
- `sinks`: where metrics go; `JsonLines`, `TensorBoard`, `WandB`, `Trackio`, `Guarded`.
- `guards`: whether a run is still worth its time; `Guard`, `Bounds`.
- `preemption`: being asked to leave; `Preemption`, `EXIT_PREEMPTED`.
- `progress`: a live bar; `Progress`.
- `plots`: curves; `plot_curve`.

Only `loop`, `evaluation` and `checkpoints` import JAX: what merely prints a recipe
starts at once.
"""
