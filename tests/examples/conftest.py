import sys
from pathlib import Path


# Scripts see the folder that they lie in.
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "examples"))
