"""Hooks of mkdocs, which builds the documentation: files from beside docs/, and formulas without scripts."""

import html
import logging
import posixpath
import re
from pathlib import Path

import latex2mathml.converter
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
LINK = re.compile(r"(?<=\]\()(?!\w+:|#|/)([^)\s#]+)")
FORMULA = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL)
ELSEWHERE = re.compile(r'<(?:script|link|img|iframe)\b[^>]*?\b(?:src|href)="((?:https?:)?//[^"]*)"')
LOG = logging.getLogger("mkdocs.hooks")  # in strict mode its warnings end the build


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Publish what the pages link to outside docs/, and what that links to, at its place in the repository."""
    waiting = [(f"docs/{file.src_uri}", file.content_string) for file in files.documentation_pages()]
    waiting.append(("mkdocs.yml", " ".join(f"]({page})" for page in _pages(config.nav))))
    while waiting:
        source, text = waiting.pop()
        for link in LINK.findall(text):
            path = _beside(source, link)
            if path.startswith(("docs/", "../")) or files.get_file_from_path(path) or not (ROOT / path).is_file():
                continue  # mkdocs warns of a link that leads nowhere
            file = File.generated(config, path, abs_src_path=str(ROOT / path))
            files.append(file)
            if file.is_documentation_page():
                waiting.append((path, file.content_string))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Let links between docs/ and the rest of the repository lead to where the site has them."""
    outside = page.file.generated_by is not None
    source = page.file.src_uri if outside else f"docs/{page.file.src_uri}"

    def moved(match: re.Match[str]) -> str:
        path = _beside(source, match[1])
        if path.startswith("docs/") != outside:
            return match[1]  # its way there is the same on the site
        return posixpath.relpath(path.removeprefix("docs/"), posixpath.dirname(page.file.src_uri) or ".")

    return LINK.sub(moved, markdown)


def on_page_content(content: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn formulas into MathML, which browsers draw by themselves."""

    def drawn(match: re.Match[str]) -> str:
        block = match[1] == "div"
        drawing = latex2mathml.converter.convert(html.unescape(match[2]), display="block" if block else "inline")
        return f'<div class="formula">{drawing}</div>' if block else drawing

    return FORMULA.sub(drawn, content)


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> str:
    """Warn of what a reader's browser would load from other hosts: the site works without a network."""
    for place in ELSEWHERE.findall(output):
        LOG.warning("%s loads %s", page.file.src_uri, place)
    return output


def _beside(source: str, link: str) -> str:
    """Where in the repository a link leads from a file of it."""
    return posixpath.normpath(posixpath.join(posixpath.dirname(source), link))


def _pages(nav: object) -> list[str]:
    """The pages that a navigation names, at any depth."""
    if isinstance(nav, str):
        return [nav]
    entries = nav.values() if isinstance(nav, dict) else nav if isinstance(nav, list) else ()
    return [page for entry in entries for page in _pages(entry)]
