"""The command `grpojax serve`, and the page about it."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from grpojax import text
from grpojax.runs.cli import main as commands

from ..conftest import SHIPPED, write_model
from .conftest import TEMPLATE


PAGE = Path(__file__).resolve().parents[3] / "docs" / "serve.md"
SIZES = ("--slots", "4", "--max-prompt", "48", "--max-tokens", "16")


@pytest.fixture(scope="module")
def chatting(tmp_path_factory):
    path = tmp_path_factory.mktemp("model")
    write_model(path, text.load_tokenizer(SHIPPED).vocab_size)
    (path / "chat_template.jinja").write_text(TEMPLATE)
    return path


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGINT])
def test_the_page_on_serving_runs(chatting, end):
    pytest.importorskip("uvicorn", reason="needs the extra `serve`")
    pytest.importorskip("openai", reason="openai is not installed")
    argv = [sys.executable, "-m", "grpojax", "serve", chatting, "--port", "0", *SIZES]
    with subprocess.Popen(
        argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ
    ) as server:
        try:
            said = ""
            while "answers at" not in said:
                line = server.stdout.readline()
                assert line, server.stderr.read()
                said += line
            url = re.search(r"http://127.0.0.1:\d+/v1", said)[0]
            page = PAGE.read_text().replace("http://127.0.0.1:8000/v1", url)
            for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
                exec(compile(block, "serve.md", "exec"), {})
            server.send_signal(end)
            assert server.wait(120) == 0
            assert "Traceback" not in server.stderr.read()
        finally:
            server.kill()


def test_what_is_refused_before_a_model_is_loaded(capsys):
    pytest.importorskip("uvicorn", reason="needs the extra `serve`")
    argv = ["serve", "gsm8k-tiny", "--port", "-3", "--set", "run.compile_cache=false"]
    assert commands.main(argv, {}) == 2
    assert "an address of this machine with a free port" in capsys.readouterr().err


def test_without_the_extra(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "starlette.applications", None)
    for name in ("app", "run"):
        monkeypatch.delattr(f"grpojax.runs.serve.{name}", raising=False)
        monkeypatch.delitem(sys.modules, f"grpojax.runs.serve.{name}", raising=False)
    argv = ["serve", "gsm8k-tiny", "--set", "run.compile_cache=false"]
    assert commands.main(argv, {}) == 2
    assert "pip install 'grpojax[serve]'" in capsys.readouterr().err
