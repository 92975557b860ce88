"""What mkdocs does not do by itself: pages from outside docs/, links to them, pages of the API.

mkdocs.yml names this file as a hook. What the site shows stands in one place of the repository:
README's sections, the changelog and the examples are brought in, not copied.
"""

import ast
import posixpath
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import yaml
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent.parent
TYPED = ROOT / "build" / "typed"
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
BROUGHT = {
    "README.md#the-command-line": "commands.md",
    "README.md#rooms": "project/rooms.md",
    "CHANGELOG.md": "project/changelog.md",
    "CONTRIBUTING.md": "project/contributing.md",
    "SECURITY.md": "project/security.md",
    "CITATION.cff": "project/cite.md",
    "mlflow/README.md": "server.md",
    **{f"examples/{file.name}": f"examples/{file.stem}.md" for file in EXAMPLES},
}
CAME_FROM = {page: source.partition("#")[0] for source, page in BROUGHT.items()}
HEADS = ("gstds", "gstds.envs", "gstds.policies", "gstds.train")
LINK = re.compile(r"(?<=\]\()([^)\s:#]+)?(#[^)\s]*)?(?=\))")
CITE = """# How to cite

If gstds served your work, please cite the paper whose method it implements, and the software.

```bibtex
@article{{{key},
  title   = {{{title}}},
  author  = {{{authors}}},
  journal = {{{journal}}},
  year    = {{{year}}},
  note    = {{{note}}},
  url     = {{{url}}}
}}
```

The same for programs that read it, `CITATION.cff`:

```yaml
{source}
```
"""


def slug(title: str) -> str:
    """Return a heading's anchor."""
    return re.sub(r"[^\w]+", "-", title.lower()).strip("-")


def cited(text: str) -> str:
    """Return the page on citing, from CITATION.cff."""
    paper = yaml.safe_load(text)["preferred-citation"]
    names = [f"{one['family-names']}, {one['given-names']}" for one in paper["authors"]]
    parts = {name: paper[name] for name in ("title", "journal", "year", "url")}
    key = f"{paper['authors'][0]['family-names'].lower()}{paper['year']}"
    note = paper["identifiers"][0]["value"]
    return CITE.format(key=key, authors=" and ".join(names), note=note, source=text, **parts)


def content_of(source: str) -> str:
    """Return what a page brought in says: a file, a section of README, a program."""
    name, _, section = source.partition("#")
    text = (ROOT / name).read_text(encoding="utf-8")
    if section:
        parts = re.split(r"^(?=## )", text, flags=re.MULTILINE)
        (text,) = (part for part in parts if slug(part.partition("\n")[0]) == section)
        return text.removeprefix("#")
    if name.endswith(".cff"):
        return cited(text)
    if name.endswith(".py"):
        title = name.rpartition("/")[2]
        return f'# {title}\n\n```python title="{name}"\n{text}\n```\n'
    return text


def packages() -> list[str]:
    """Return the packages that are installed."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]


def names_of(package: str) -> list[str]:
    """Return a row for each name that a package offers itself: a link, and what it is."""
    text = (TYPED.joinpath(*package.split(".")) / "__init__.py").read_text()
    tree, rows = ast.parse(text), []
    offered = re.findall(r'"(\w+)"', text.partition("__all__ = [")[2].partition("]")[0])
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("gstds."):
            file = TYPED.joinpath(*str(node.module).split(".")).with_suffix(".py")
            told = {
                part.name: str(ast.get_docstring(part)).partition("\n")[0]
                for part in ast.parse(file.read_text()).body
                if isinstance(part, ast.FunctionDef | ast.ClassDef)
            }
            for alias in node.names:
                name = alias.asname or alias.name
                if alias.name in told and (alias.asname or alias.name in offered):
                    link = f"[`{name}`][{node.module}.{alias.name}]"
                    rows.append(f"| {link} | {told[alias.name]} |")
    return sorted(rows, key=str.lower)


def interface_of(package: str) -> str:
    """Return a package's page: what it offers itself, then what each of its files does."""
    folder = TYPED.joinpath(*package.split("."))
    about = ast.get_docstring(ast.parse((folder / "__init__.py").read_text()))
    parts = [f"# {package}", str(about)]
    if rows := names_of(package):
        parts.append("\n".join([f"| from {package} import | |", "|---|---|", *rows]))
    files = (f"{package}.{file.stem}" for file in sorted(folder.glob("[!_]*.py")))
    return "\n\n".join([*parts, *(f"## {name}\n\n::: {name}" for name in files)]) + "\n"


def on_startup(command: str, dirty: bool) -> None:
    """Lay the packages out as they are installed: mkdocstrings reads files, as mypy does."""
    subprocess.run([sys.executable, ROOT / ".ci" / "typed_tree"], check=True)  # noqa: S603


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put the pages of a folder where the navigation names the folder."""
    cards = sorted(ROOT.glob("docs/policies/[a-z]*.md"))
    folders = {
        "api/": grouped(packages()),
        "policies/": ["policies/README.md", *({c.stem: f"policies/{c.name}"} for c in cards)],
        "examples/": [{p.partition("/")[2][:-3]: p} for p in BROUGHT.values() if p[:4] == "exam"],
    }
    for section in config.nav:
        for entry in next(iter(section.values())):
            if isinstance(entry, dict):
                entry.update({title: folders.get(at, at) for title, at in entry.items()})
    return config


def page_of(package: str) -> str:
    """Return where a package's page lies; the first of a group is its index."""
    return f"api/{package}/index.md" if package in HEADS else f"api/{package}.md"


def grouped(names: list[str]) -> list[Any]:
    """Return the pages of the API, those of each of the four folders together."""
    found: dict[str, list[Any]] = {head: [page_of(head)] for head in HEADS}
    for name in names:
        if name not in HEADS:
            head = next((head for head in HEADS[1:] if name.startswith(f"{head}.")), HEADS[0])
            found[head].append({name.removeprefix(f"{head}."): page_of(name)})
    return [{head: pages} for head, pages in found.items()]


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that do not stand in docs/."""
    made = {page: content_of(source) for source, page in BROUGHT.items()}
    made |= {page_of(package): interface_of(package) for package in packages()}
    for page, text in made.items():
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(text: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links that lead through the repository into links that lead through the site."""
    here = page.file.src_uri
    # A page alone in its section needs no list of its section, one of one section none of these.
    alone, short = here in ("index.md", "tutorial.md"), text.count("\n## ") < 2
    page.meta["hide"] = ["navigation"] * alone + ["toc"] * short
    if here.startswith(("api/", "results/")):  # found behind what explains it
        page.meta["search"] = {"boost": 0.2}
    source = CAME_FROM.get(here, f"docs/{here}")

    def lead(found: re.Match[str]) -> str:
        path, anchor = found.group(1) or "", found.group(2) or ""
        there = (
            posixpath.normpath(posixpath.join(posixpath.dirname(source), path)) if path else source
        )
        if there + anchor in BROUGHT:
            target, anchor = BROUGHT[there + anchor], ""
        elif there in BROUGHT or there == "README.md":
            target = BROUGHT.get(there, "index.md")
        elif there.startswith("docs/"):
            target = there.removeprefix("docs/")
        else:
            return found.group()
        return posixpath.relpath(target, posixpath.dirname(here)) + anchor

    return LINK.sub(lead, text)
