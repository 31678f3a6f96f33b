"""Markdown, HTML and Typst as the report reads and writes them: from text to text, or to the nodes of pandoc."""

import json
import re

import nbformat
import pypandoc
from bs4 import BeautifulSoup

LONG_CELL = 40  # characters: a table with a longer cell wraps in the PDF, another one shrinks


def parse(texts: list[str]) -> list[list[dict]]:
    """Markdown texts as pandoc blocks, each text for itself, read as cells of one notebook."""
    cells = [nbformat.v4.new_markdown_cell(text, id=f"text-{i}") for i, text in enumerate(texts)]
    notebook = nbformat.v4.new_notebook(cells=cells, metadata={"language_info": {"name": "python"}})
    reader = "ipynb-autolink_bare_uris"  # it takes F1@50 for an address
    document = json.loads(pypandoc.convert_text(nbformat.writes(notebook), "json", format=reader))
    return [block["c"][1] for block in document["blocks"]]


def plain(node) -> str:
    """The text of pandoc nodes, without any marks."""
    if isinstance(node, list):
        return "".join(plain(one) for one in node)
    if not isinstance(node, dict):
        return ""
    if node["t"] in ("Str", "Space", "SoftBreak", "LineBreak"):
        return node.get("c", " ")
    if node["t"] in ("Code", "Math"):
        return node["c"][1]
    return plain(node.get("c", []))


def clean(text: str, fragments: bool = False) -> BeautifulSoup:
    """HTML without anything that runs or loads; of an output the tables alone, of Markdown all fragments."""
    soup = BeautifulSoup(text, "html.parser")
    for tag in soup(["script", "style", "link", "iframe", "object", "embed"]):
        tag.decompose()
    for tag in soup(src=True):
        if not tag["src"].startswith("data:"):
            tag.decompose()
    if not fragments:
        whole = BeautifulSoup("", "html.parser")
        for table in soup("table"):
            whole.append(table.extract())
        return whole
    return soup


def typst_table(soup: BeautifulSoup) -> str:
    """Tables as calls of `fitted-table`, which report.typ draws no wider than the page."""
    calls = []
    for table in soup("table"):
        rows = [(row, row(["td", "th"])) for row in table("tr")]
        width = max((sum(int(cell.get("colspan", 1)) for cell in cells) for _, cells in rows), default=1)
        body = next((cells for row, cells in rows if row("td")), [])
        align = ["right" if _is_number(cell) else "left" for cell in body] + ["left"] * (width - len(body))
        head = [cell for row, cells in rows for cell in cells if row.find_parent("thead")]
        rest = [cell for row, cells in rows for cell in cells if not row.find_parent("thead")]
        texts = [f"table.header({', '.join(map(_typst_cell, head))})"] if head else []
        longest = max((len(cell.get_text()) for cell in [*head, *rest]), default=0)
        wraps = "true" if longest > LONG_CELL else "false"
        calls.append(
            f"#fitted-table({wraps}, {width}, ({', '.join(align)},), {', '.join([*texts, *map(_typst_cell, rest)])})"
        )
    return "\n".join(calls)


def _typst_cell(cell) -> str:
    text = "".join(_typst_inline(child) for child in cell.children)
    if cell.name == "th":
        text = f"#strong[{text}]"
    if "missing" in cell.get("class", []):
        text = f"#missing[{text}]"
    options = [f"{key}: {cell[key]}, " for key in ("colspan", "rowspan") if int(cell.get(key, 1)) > 1]
    return f"table.cell({''.join(options)})[{text}]" if options else f"[{text}]"


def _typst_inline(node) -> str:
    text = "#" + quoted(re.sub(r"\s+", " ", node.get_text()))
    return f"#strong[{text}]" if node.name in ("strong", "b") else text


def _is_number(cell) -> bool:
    if "text-align" in cell.get("style", ""):
        return "right" in cell["style"]
    return bool(re.fullmatch(r"\s*[-+−]?[\d.,]+(e[-+]?\d+)?%?(\s*±.*)?\s*", cell.get_text()))


def quoted(text: str) -> str:
    """A string of the Typst language."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'
