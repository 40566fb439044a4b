"""What mkdocs does beside its own work: links of the pages that lead out of docs/. mkdocs.yml names this file.

The pages are read in the repository too, where they link to its other files. On the site such a link is the file's
name, or, where mkdocs.yml has a `repo_url`, a link to it there. One to a file that does not exist is a fault of the
build. The notebooks of examples/ are on the site as files to be downloaded.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File

DOCS = Path(__file__).parent
NOTEBOOKS = sorted((DOCS.parent / "examples").glob("*.ipynb"))
LINK = re.compile(r"(?<!!)\[([^\]]*)\]\(((?!https?:|#|mailto:)[^)\s]+)\)")


def on_files(files: Any, /, *, config: Any) -> Any:
    """The site's files and the notebooks, where the repository has them: examples/NAME.ipynb."""
    for notebook in NOTEBOOKS:
        files.append(File.generated(config, f"examples/{notebook.name}", abs_src_path=str(notebook)))
    return files


def on_page_markdown(markdown: str, /, *, page: Any, config: Any, **_: Any) -> str:
    """The text of a page with its links out of the site put as what they name."""
    return inside(markdown, page.file.src_uri, config.repo_url)


def inside(markdown: str, uri: str, repository: str | None = None) -> str:
    """The text of the page `uri` (its path in docs/) with links out of docs/, or to what is no page, put as names;
    those to notebooks as downloads.

    Raises:
        PluginError: there is no such file.
    """

    def put(link: re.Match[str]) -> str:
        label, target = link.groups()
        path = posixpath.normpath(posixpath.join("docs", posixpath.dirname(uri), target.partition("#")[0]))
        if path.startswith("docs/") and path.endswith((".md", ".png", ".svg")) and "/demo-cards/" not in path:
            return link[0]
        if DOCS.parent / path in NOTEBOOKS:
            return f"[{label}]({posixpath.relpath(path, posixpath.dirname(uri) or '.')}){{: download}}"
        if not (DOCS.parent / path).exists():
            raise PluginError(f"docs/{uri} links to {path}, which does not exist.")
        if repository:
            return f"[{label}]({repository.rstrip('/')}/blob/HEAD/{path})"
        name = f"`{path}`"
        return name if label.strip("`") in (path, posixpath.basename(path)) else f"{label} ({name})"

    fenced = re.split(r"(^ *```.*?^ *```)", markdown, flags=re.DOTALL | re.MULTILINE)
    return "".join(part if part.lstrip().startswith("```") else LINK.sub(put, part) for part in fenced)
