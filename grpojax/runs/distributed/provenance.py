"""Where and with what a run was computed, for its summary."""

import importlib.metadata
import platform
from pathlib import Path

import jax


def provenance() -> dict[str, str | None]:
    """Versions, the kind of device, and the commit of the code.

    The commit is that of the working directory or, if this is in no git checkout, of
    the one in which the package lies; `None` if neither is. Uncommitted changes are not
    seen.
    """
    try:
        version = importlib.metadata.version("grpojax")
    except importlib.metadata.PackageNotFoundError:
        version = None
    return {
        "python": platform.python_version(),
        "jax": jax.__version__,
        "grpojax": version,
        "device": jax.devices()[0].device_kind,
        "commit": commit_of(Path.cwd()) or commit_of(Path(__file__).parent),
    }


def commit_of(directory: Path) -> str | None:
    """The commit that is checked out in a directory or above it, if any."""
    try:
        for place in (directory, *directory.parents):
            if (place / ".git").exists():
                return _head(place / ".git")
    except (OSError, ValueError):
        pass  # Not a checkout that can be read: the run goes on without.
    return None


def _head(git: Path) -> str | None:
    """The commit of HEAD; `.git` is a file in a worktree or a submodule."""
    if git.is_file():
        pointer = git.read_text(encoding="utf-8").removeprefix("gitdir:").strip()
        git = git.parent / pointer
    shared = git
    if (git / "commondir").is_file():
        shared = git / (git / "commondir").read_text(encoding="utf-8").strip()
    head = (git / "HEAD").read_text(encoding="utf-8").strip()
    if not head.startswith("ref:"):
        return head or None
    name = head.removeprefix("ref:").strip()
    for folder in (git, shared):
        if (folder / name).is_file():
            return (folder / name).read_text(encoding="utf-8").strip()
    if (shared / "packed-refs").is_file():
        for line in (shared / "packed-refs").read_text(encoding="utf-8").splitlines():
            if line.endswith(f" {name}"):
                return line.split()[0]
    return None
