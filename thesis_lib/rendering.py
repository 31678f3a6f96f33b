"""Chapters -> one pandoc document -> HTML and Typst.

Markdown goes through pandoc's own reader of notebooks, all cells at once. Figures, tables and boxes enter the document
as raw blocks in both languages: each writer keeps its own and drops the other's, so one document makes both reports.
"""

import base64
import html
import json
import re
from pathlib import Path
from urllib.parse import unquote

import pypandoc

from thesis_lib.chapters import Block, Chapter
from thesis_lib.markup import clean, parse, plain, quoted, typst_table

SUMMARY = "8"  # opens the report, so that its own number would only puzzle
LONG_TABLE = 30  # rows: a longer one may go on over the page
WIDE = 560  # points: an SVG wider than this may leave the text column
IMAGE_TYPES = {".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".svg": "image/svg+xml"}


class Document:
    """A pandoc document in the making. `files` receives the pictures that the Typst source names."""

    def __init__(self, chapters: list[Chapter], files: Path, sources: Path):
        self.files, self.sources = files, sources
        self.blocks: list[dict] = []
        self.contents: list[tuple[int, str, list]] = []  # level, anchor, inlines
        texts = {id(owner): text for chapter in chapters for owner, text in _markdown(chapter)}
        self.parsed = dict(zip(texts, parse(list(texts.values())), strict=True))
        self.drawn: set[str] = set()
        self.known = {self.anchor(chapter) for chapter in chapters} | {"contents", "figures", "provenance"}
        for chapter in chapters:
            for block in chapter.blocks:
                if block.kind == "markdown":
                    self._name_headings(block, chapter)
                elif block.number:
                    self.known.add(reference_of(block))

    @staticmethod
    def anchor(chapter: Chapter) -> str:
        return f"nb-{chapter.notebook.split('_')[0]}"

    def raw(self, html_text: str = "", typst_text: str = "") -> None:
        for language, text in (("html", html_text), ("typst", typst_text)):
            if text:
                self.blocks.append({"t": "RawBlock", "c": [language, text]})

    def heading(self, level: int, anchor: str, inlines: list) -> None:
        self.contents.append((level, anchor, inlines))
        self.blocks.append({"t": "Header", "c": [level, [anchor, [], []], inlines]})

    def chapter(self, chapter: Chapter) -> None:
        """Title, state, and everything the notebook shows."""
        self.raw(f'<section class="chapter {chapter.state.replace(" ", "-")}">')
        title = _plain_inlines(self.parsed[id(chapter)])
        number = [] if chapter.number == SUMMARY else [_str(chapter.number), {"t": "Space"}]
        self.heading(1, self.anchor(chapter), [*number, *title])
        name = f"{chapter.notebook}{'.failed' if chapter.state == 'failed' else ''}.ipynb"
        if chapter.state == "not run":
            text = f"{chapter.notebook} was not run: its numbers, figures and tables are missing from this report."
            self.raw(
                f'<aside class="box missing"><strong>Not run.</strong> {text}</aside>', f"#not-run({quoted(text)})"
            )
        else:
            time = "" if chapter.seconds is None else f" · {duration(chapter.seconds)}"
            link = f'<a href="notebooks/{name}">{name}</a>'
            self.raw(f'<p class="meta">{link}{time}</p>', f"#meta({quoted(name + time)})")
        for block in chapter.blocks:
            getattr(self, f"_{block.kind}")(block, chapter)
        self.raw("</section>")

    def table(self, table: str) -> None:
        """An HTML table without number, in both languages."""
        soup = clean(table)
        self.raw(f'<div class="scroll" tabindex="0">{soup}</div>', typst_table(soup))

    def _markdown(self, block: Block, chapter: Chapter) -> None:
        for node in self.parsed[id(block)]:
            node = self._walk(node, chapter)
            if node["t"] == "Header":
                level, (anchor, _, _), inlines = node["c"]
                self.heading(level, anchor, inlines)
            else:
                self.blocks.append(node)

    def _code(self, block: Block, chapter: Chapter) -> None:
        lines = block.text.count("\n") + 1
        code = {"t": "CodeBlock", "c": [["", ["python"], []], block.text]}
        fold = f'<details class="code"><summary>code · {lines} {"line" if lines == 1 else "lines"}</summary>'
        parts = [{"t": "RawBlock", "c": ["html", fold]}, code, {"t": "RawBlock", "c": ["html", "</details>"]}]
        self.blocks.append({"t": "Div", "c": [["", ["html-only"], []], parts]})

    def _text(self, block: Block, chapter: Chapter) -> None:
        lines = block.text.splitlines()
        text = "\n".join(lines if len(lines) <= 40 else [*lines[:38], "…", lines[-1]])
        self.raw(f'<pre class="output" tabindex="0">{html.escape(text)}</pre>', f"#output-text({quoted(text)})")

    def _log(self, block: Block, chapter: Chapter) -> None:
        lines = block.text.splitlines()
        shown = lines if len(lines) <= 400 else [*lines[:200], f"… {len(lines) - 400} lines …", *lines[-200:]]
        body = html.escape("\n".join(shown))
        self.raw(
            f'<details class="log"><summary>log · {len(lines)} lines</summary><pre tabindex="0">{body}</pre></details>'
        )

    def _table(self, block: Block, chapter: Chapter) -> None:
        if not block.number:
            self.table(block.text)
            return
        soup, title = clean(block.text), f"Table {block.number}"
        reference = self._reference(block)
        self.raw(f'<figure class="table" id="{reference}"><figcaption><b>{title}.</b> ')
        breaks = "true" if len(soup("tr")) > LONG_TABLE else "false"
        start = f"#captioned-table({quoted(reference)}, {quoted(title)}, {breaks}"
        self.raw(typst_text=f"{start}, [{typst_table(soup)}], [")
        self.blocks.append({"t": "Plain", "c": self._caption(block, chapter)})
        self.raw(f'{_origin(chapter)}</figcaption><div class="scroll" tabindex="0">{soup}</div></figure>', "])")

    def _figure(self, block: Block, chapter: Chapter) -> None:
        self._image(block, chapter, block.text.encode(), "svg", "image/svg+xml")

    def _picture(self, block: Block, chapter: Chapter) -> None:
        self._image(block, chapter, base64.b64decode(block.text), "png", "image/png")

    def _image(self, block, chapter, data: bytes, suffix: str, kind: str) -> None:
        reference = self._reference(block) if block.number else ""
        path = self.files / f"{reference or f'picture-{len(self.blocks)}'}.{suffix}"
        path.write_bytes(data)
        size = re.search(rb'<svg[^>]*?\bwidth="([\d.]+)pt"', data) if suffix == "svg" else None
        width = float(size[1]) if size else None
        alt = html.escape(plain(self.parsed[id(block)]) if block.caption else "picture", quote=True)
        pixels = f' style="width: {width * 4 / 3:.0f}px"' if width else ""
        image = f'<img alt="{alt}" src="data:{kind};base64,{base64.b64encode(data).decode()}"{pixels}>'
        place = f"<div class='scroll zoom' tabindex='0'>{image}</div>"
        layout = "wide" if width and width > WIDE else "text"
        natural = f"{width}pt" if width else "none"
        if not block.number:
            self.raw(f'<figure class="{layout}">{place}</figure>', f"#picture({quoted(path.name)}, {natural})")
            return
        title = f"Figure {block.number}"
        self.raw(f'<figure class="{layout}" id="{reference}">{place}<figcaption><b>{title}.</b> ')
        self.raw("", f"#captioned-figure({quoted(reference)}, {quoted(title)}, {quoted(path.name)}, {natural}, [")
        self.blocks.append({"t": "Plain", "c": self._caption(block, chapter)})
        self.raw(f"{_origin(chapter)}</figcaption></figure>", "])")

    def _failure(self, block: Block, chapter: Chapter) -> None:
        where = f"{chapter.notebook}, section “{chapter.section}”" if chapter.section else chapter.notebook
        source = "\n".join(block.source.splitlines()[:10])
        text = f"<strong>Failed here.</strong> {html.escape(where)}<code>{html.escape(block.text)}</code>"
        rest = "<p>What follows in this notebook did not run.</p>"
        self.raw(f'<aside class="box failed" role="alert">{text}<pre>{html.escape(source)}</pre>{rest}</aside>')
        self.raw("", f"#failed({quoted(where)}, {quoted(block.text)}, {quoted(source)})")

    def _caption(self, block: Block, chapter: Chapter) -> list:
        return [self._walk(node, chapter) for node in _plain_inlines(self.parsed[id(block)])] if block.caption else []

    def _reference(self, block: Block) -> str:
        """The anchor of a numbered block, for the first one that carries the number."""
        reference = reference_of(block)
        again = reference in self.drawn
        self.drawn.add(reference)
        return f"{reference}-again-{len(self.blocks)}" if again else reference

    def _name_headings(self, block: Block, chapter: Chapter) -> None:
        """Headings of a notebook get anchors of their own: nb-04-curves; its first level becomes the second."""
        for node in self.parsed[id(block)]:
            if node["t"] == "Header" and not node["c"][1][0].startswith("nb-"):
                anchor = base = f"{self.anchor(chapter)}-{node['c'][1][0] or 'section'}"
                again = 1
                while anchor in self.known:
                    again += 1
                    anchor = f"{base}-{again}"
                self.known.add(anchor)
                node["c"][0], node["c"][1] = max(2, node["c"][0]), [anchor, [], []]

    def _walk(self, node, chapter: Chapter):
        """The node with links that lead somewhere inside the report and pictures that travel with it."""
        if isinstance(node, list):
            return [self._walk(one, chapter) for one in node]
        if not isinstance(node, dict):
            return node
        if node.get("t") == "Link":
            attributes, inlines, (target, title) = node["c"]
            target = self._target(target, chapter)
            inlines = self._walk(inlines, chapter)
            return (
                {"t": "Link", "c": [attributes, inlines, [target, title]]}
                if target
                else {"t": "Span", "c": [["", [], []], inlines]}
            )
        if node.get("t") == "Image":
            return self._local_image(node)
        if node.get("t") in ("RawBlock", "RawInline") and node["c"][0] == "html":
            return {"t": node["t"], "c": ["html", str(clean(node["c"][1], fragments=True))]}
        return {key: self._walk(value, chapter) for key, value in node.items()}

    def _target(self, target: str, chapter: Chapter) -> str:
        """Where a link of a notebook leads in the report; "" where the report has no such place."""
        if re.match(r"https?://|mailto:", target):
            return target
        path, _, place = unquote(target).partition("#")
        other = re.fullmatch(r"(?:.*/)?([0-9A]\d)_\w+\.ipynb", path)
        start = f"nb-{other[1]}" if other else self.anchor(chapter)
        places = [place, f"{start}-{place.lower()}"] if place else []
        return next((f"#{name}" for name in [*places, *([start] if other else [])] if name in self.known), "")

    def _local_image(self, node: dict) -> dict:
        attributes, inlines, (target, title) = node["c"]
        file = self.sources / unquote(target)
        if file.suffix not in IMAGE_TYPES or not file.is_file():
            return {"t": "Emph", "c": inlines or [_str(target)]}
        (self.files / file.name).write_bytes(file.read_bytes())
        data = base64.b64encode(file.read_bytes()).decode()
        alt = html.escape(plain(inlines), quote=True)
        image = f'<img alt="{alt}" src="data:{IMAGE_TYPES[file.suffix]};base64,{data}">'
        typst = f"#picture({quoted(file.name)}, none)"
        return {"t": "Span", "c": [["", [], []], [_inline("html", image), _inline("typst", typst)]]}

    def entry(self, block: Block, reference: str, chapter: Chapter) -> list:
        """One line of the list of figures and tables: number, what it claims, the notebook that made it."""
        kind = "Table" if block.kind == "table" else "Figure"
        link = {"t": "Link", "c": [["", [], []], [_str(f"{kind} {block.number}")], [f"#{reference}", ""]]}
        return [link, _str("."), {"t": "Space"}, *self._caption(block, chapter), _inline("html", _origin(chapter))]

    def to_html(self) -> str:
        options = ["--mathml", "--wrap=none", "--syntax-highlighting=pygments", "--shift-heading-level-by=1"]
        return pypandoc.convert_text(self._json(self.blocks), "html5", format="json", extra_args=options)

    def to_typst(self) -> str:
        kept = [block for block in self.blocks if not (block["t"] == "Div" and block["c"][0][1] == ["html-only"])]
        options = ["--wrap=none", "--syntax-highlighting=none"]
        return pypandoc.convert_text(self._json(kept), "typst", format="json", extra_args=options)

    @staticmethod
    def _json(blocks: list) -> str:
        return json.dumps({"pandoc-api-version": _api_version(), "meta": {}, "blocks": blocks})


def duration(seconds: float) -> str:
    return (
        f"{seconds:.0f} s"
        if seconds < 120
        else f"{seconds / 60:.0f} min"
        if seconds < 7200
        else f"{seconds / 3600:.1f} h"
    )


def _markdown(chapter: Chapter) -> list[tuple[object, str]]:
    """Every Markdown text of a chapter with what it belongs to: the title, cells, captions."""
    cells = [(block, block.text if block.kind == "markdown" else block.caption) for block in chapter.blocks]
    return [(chapter, chapter.title), *((block, text) for block, text in cells if text)]


def reference_of(block: Block) -> str:
    kind = "tab" if block.kind == "table" else "fig"
    return f"{kind}-{block.number.replace('.', '-')}"


def _origin(chapter: Chapter) -> str:
    name = f"{chapter.notebook}{'.failed' if chapter.state == 'failed' else ''}.ipynb"
    return f' <a class="origin" href="notebooks/{name}">{chapter.notebook}</a>'


def _plain_inlines(blocks: list) -> list:
    """The inlines of parsed text that should be one line: a title, a caption."""
    inlines = []
    for block in blocks:
        if block["t"] in ("Para", "Plain"):
            inlines += [{"t": "Space"}, *block["c"]] if inlines else block["c"]
    return inlines


def _str(text: str) -> dict:
    return {"t": "Str", "c": text}


def _inline(language: str, text: str) -> dict:
    return {"t": "RawInline", "c": [language, text]}


def _api_version() -> list[int]:
    return json.loads(pypandoc.convert_text("", "json", format="markdown"))["pandoc-api-version"]
