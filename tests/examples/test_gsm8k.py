"""The main job's script: `grpojax train` under another name."""

import gsm8k

from grpojax.runs.recipe import load as recipes
from grpojax.runs.recipe.schema import Recipe


SMALL = [
    "data.train_rows=20",
    "run.eval_problems=5",
    "run.steps=2",
    "rollout.prompts=2",
    "rollout.group=4",
    "rollout.max_new_tokens=6",
]


def test_the_script_trains_and_says_so(tmp_path, capsys):
    words = [word for pair in SMALL for word in ("--set", pair)]
    assert gsm8k.main([*words, "--out", str(tmp_path / "run")]) == 0
    printed = capsys.readouterr().out
    for said in (
        "20 training problems, 5 held out",
        "compiled the step in",
        "step 2/2",
        "2 steps in",
        f"see {tmp_path / 'run'}",
    ):
        assert said in printed
    for when in ("before", "after"):
        assert f"held-out accuracy {when}: " in printed
    assert printed.count("the answer is") == 4
    assert (tmp_path / "run" / "summary.json").exists()


def test_the_recipe_is_a_file_and_can_be_printed(tmp_path, capsys):
    path = tmp_path / "recipe.yaml"
    path.write_text("run:\n  steps: 3\n")
    assert gsm8k.main(["--config", str(path), "--print-config"]) == 0
    path.write_text(capsys.readouterr().out)
    assert recipes.load(Recipe(), path).run.steps == 3


def test_what_cannot_be_is_refused(capsys):
    assert gsm8k.main(["--config", "nowhere.yaml"]) == 2
    assert "There is none at 'nowhere.yaml'" in capsys.readouterr().err
