import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny_checkpoints


@pytest.fixture(
    params=tiny_checkpoints.CASES,
    ids=lambda case: "-tied".join([case[0], ""][: 1 + case[1]]),
)
def case(request):
    """A family, and whether its head is tied."""
    return request.param


@pytest.fixture(scope="session")
def smollm2(tmp_path_factory):
    """The directory of SmolLM2-135M-Instruct: GRPOJAX_SMOLLM2, or made here."""
    if "GRPOJAX_SMOLLM2" in os.environ:
        return Path(os.environ["GRPOJAX_SMOLLM2"])
    folder = tmp_path_factory.mktemp("smollm2")
    script = shared_folder() / "tools" / "make_smollm2.py"
    made = subprocess.run([sys.executable, script, folder], capture_output=True)
    if made.returncode != 0:
        pytest.skip("SmolLM2 could not be made: its package cannot be downloaded.")
    return folder


def shared_folder():
    folder = Path(__file__).resolve().parents[2].parent / "shared"
    if not folder.is_dir():
        pytest.skip("There is no folder `shared` beside the repository.")
    return folder


@pytest.fixture(scope="session")
def golden():
    """What `transformers` computed for SmolLM2, in float32 from its bf16 weights."""
    return np.load(shared_folder() / "golden" / "smollm2-135m.npz")
