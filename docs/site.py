"""Write the pages of the documentation site: README and its neighbours, and docs/.

python docs/site.py FOLDER

The pages are written to be read on GitHub, where each link is relative to the file that it stands in. On the site,
links to files that are not on it lead to the repository.
"""

import os
import posixpath
import re
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# What the site shows from outside docs/, and the names there.
FROM_ELSEWHERE = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "benchmarks/results/README.md": "results.md",
    "benchmarks/results/going_on.md": "going_on.md",
    "benchmarks/results/history.md": "history.md",
    "benchmarks/results/cpu.png": "cpu.png",
    "benchmarks/results/families.png": "families.png",
}
LINK = re.compile(r"(?<=\]\()(?!\w+:|#)([^)#\s]+)(?=[)#\s])")


def repository() -> str:
    """The address of the repository's files: on GitHub in a workflow, otherwise in your clone."""
    name = os.environ.get("GITHUB_REPOSITORY")
    return f"https://github.com/{name}/blob/main" if name else ROOT.as_uri()


def target_on_site(source: str, target: str) -> str:
    """Where a link leads on the site.

    Args:
        source: The file that the link stands in, relative to the repository.
        target: What the link names, relative to that file.

    Returns:
        The address of a page, an image, or a file of the repository. A target that does not exist stays as it is, so
        that the build reports it.
    """
    path = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
    if path in FROM_ELSEWHERE:
        return FROM_ELSEWHERE[path]
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    return f"{repository()}/{path}" if (ROOT / path).exists() else target


def with_links_of_site(text: str, source: str) -> str:
    """The text of the page `source`, with each link leading where it leads on the site."""
    return LINK.sub(lambda link: target_on_site(source, link[1]), text)


def write_pages(folder: Path) -> None:
    """Write the pages, and the pictures in them, to a new `folder`."""
    shutil.copytree(ROOT / "docs", folder, ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    sources = {name: f"docs/{name}" for name in os.listdir(folder)}
    for source, name in FROM_ELSEWHERE.items():
        shutil.copy(ROOT / source, folder / name)
        sources[name] = source
    for page in folder.glob("*.md"):
        text = page.read_text(encoding="utf-8")
        page.write_text(with_links_of_site(text, sources[page.name]), encoding="utf-8")


if __name__ == "__main__":
    write_pages(Path(sys.argv[1]))
