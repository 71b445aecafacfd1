"""What the site does to its pages: links to the source, and notebooks as pages."""

import json
import re
from pathlib import Path

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File


ROOT = Path(__file__).resolve().parents[1]
SOURCE = "https://github.com/grpojax/grpojax/blob/main/"
LINK = re.compile(r"\]\(((?:\.\./)+)([^)#]+)(#[^)]*)?\)")


def on_files(files, config):
    """A page for every notebook: its texts, its code and its saved outputs."""
    for path in sorted(Path(config["docs_dir"]).rglob("*.ipynb")):
        name = path.relative_to(config["docs_dir"]).with_suffix(".md").as_posix()
        text = page_of(json.loads(path.read_text()), path.name)
        files.append(File.generated(config, name, content=text))
    return files


def page_of(notebook, name):
    """A notebook as Markdown."""
    parts = []
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(source)
            continue
        parts.append(f"```python\n{source}\n```")
        for output in cell["outputs"]:
            data = output.get("data", {})
            if "image/png" in data:
                image = "".join(data["image/png"]).replace("\n", "")
                parts.append(f"![Output](data:image/png;base64,{image})")
                continue
            text = "".join(output.get("text", data.get("text/plain", [])))
            parts.append(f"```text\n{text.rstrip()}\n```")
    where = f"[The notebook]({SOURCE}docs/notebooks/{name})."
    return "\n\n".join([*parts, where]) + "\n"


def on_page_markdown(markdown, page, config, files):
    """Links that leave the folder of the pages lead to the repository."""
    del files
    folder = (Path(config["docs_dir"]) / page.file.src_uri).parent

    def rewritten(match):
        target = (folder / (match[1] + match[2])).resolve()
        if target.is_relative_to(config["docs_dir"]):
            return match[0]
        if not target.exists():
            raise PluginError(
                f"{page.file.src_uri}: there is no {match[1] + match[2]}."
            )
        return f"]({SOURCE}{target.relative_to(ROOT).as_posix()}{match[3] or ''})"

    return LINK.sub(rewritten, markdown)
