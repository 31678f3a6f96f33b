"""An executed notebook as a chapter: the blocks a reader of the report sees, in order, without any format.

What papermill leaves in reports/<profile>/notebooks/ is read as it is: NN_name.ipynb ran to its end,
NN_name.failed.ipynb stopped on the way, and what is there in neither form was not run.
"""

import ast
import base64
import re
from dataclasses import dataclass, field
from pathlib import Path

import nbformat

SHORT_LOG = 6  # lines of printed text that are shown; longer ones are folded
PAPERMILL_BANNER = "papermill-error-cell-tag"
ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


@dataclass
class Block:
    """One thing on the page.

    kind and text: markdown · code · text (shown) · log (folded) · table (HTML) · figure (SVG) · picture (PNG, base64) ·
    failure (the error in one line). number, name, caption: of figures and tables shown by `results.Report`.
    """

    kind: str
    text: str
    number: str = ""
    name: str = ""
    caption: str = ""
    source: str = ""  # of the cell that failed


@dataclass
class Chapter:
    notebook: str
    state: str  # done | failed | not run
    title: str  # Markdown, without the number
    blocks: list[Block] = field(default_factory=list)
    parameters: dict[str, object] = field(default_factory=dict)
    changed: set[str] = field(default_factory=set)  # parameters that differ from the notebook's defaults
    started: str = ""  # ISO, UTC
    seconds: float | None = None
    section: str = ""  # where a failed one failed

    @property
    def number(self) -> str:
        """ "4", "A1": what sections, figures and tables of this notebook count under."""
        prefix = self.notebook.split("_")[0]
        return prefix.lstrip("0") or "0"

    @property
    def failure(self) -> str:
        return next((block.text for block in self.blocks if block.kind == "failure"), "")


def read(notebook: str, executed: Path, sources: Path) -> Chapter:
    """The chapter of one notebook; `executed` holds what ran, `sources` the notebooks of the repository.

    Of a finished and a failed run the later one counts. Raises ValueError where the file is not a notebook.
    """
    runs = [path for path in (executed / f"{notebook}.ipynb", executed / f"{notebook}.failed.ipynb") if path.is_file()]
    path = max(runs, key=lambda run: run.stat().st_mtime, default=sources / f"{notebook}.ipynb")
    state = "not run" if not runs else "failed" if path.name.endswith(".failed.ipynb") else "done"
    if not path.is_file():
        return Chapter(notebook, state, notebook.partition("_")[2].replace("_", " ").capitalize() or notebook)
    try:
        content = nbformat.read(path, as_version=4)
    except Exception as error:  # nbformat raises many kinds; each means the same to a reader
        raise ValueError(f"{path}: not a notebook ({str(error).splitlines()[0]}); run it again") from None
    chapter = Chapter(notebook, state, _title(content, notebook))
    about = content.metadata.get("papermill", {}) if runs else {}
    chapter.started, chapter.seconds = (about.get("start_time") or "")[:19], about.get("duration")
    chapter.parameters, chapter.changed = _parameters(content, about.get("parameters") or {})
    if runs:
        _fill(chapter, content)
    return chapter


def _fill(chapter: Chapter, content) -> None:
    section = ""
    for cell in content.cells:
        tags = cell.metadata.get("tags", [])
        if PAPERMILL_BANNER in tags or "injected-parameters" in tags or not cell.source.strip():
            continue
        if cell.cell_type == "markdown":
            headings = re.findall(r"^#{1,6} +(.+)$", cell.source, flags=re.MULTILINE)
            section = headings[-1] if headings else section
            chapter.blocks.append(
                Block("markdown", _without_title(cell.source) if len(chapter.blocks) < 2 else cell.source)
            )
        elif cell.cell_type == "code":
            if chapter.blocks and chapter.blocks[-1].kind == "code":  # cells that show nothing share a fold
                chapter.blocks[-1].text += "\n\n" + cell.source.rstrip()
            else:
                chapter.blocks.append(Block("code", cell.source.rstrip()))
            chapter.blocks += _outputs(cell.outputs)
            error = next((output for output in cell.outputs if output.output_type == "error"), None)
            if error is not None:
                chapter.state, chapter.section = "failed", section
                line = ANSI.sub("", f"{error.ename}: {error.evalue}").splitlines()[0].rstrip(": ")
                chapter.blocks.append(Block("failure", line, source=cell.source.rstrip()))
                return  # what stands below did not run


def _outputs(outputs) -> list[Block]:
    blocks = []
    for output in outputs:
        if output.output_type == "stream" and output.name == "stdout":
            last = blocks.pop() if blocks and blocks[-1].kind == "log" else Block("log", "")
            blocks.append(Block("log", last.text + ANSI.sub("", output.text)))
        elif output.output_type in ("display_data", "execute_result"):
            blocks += _display(output.data, output.metadata.get("thesis", {}))
    for block in blocks:
        block.text = block.text.strip("\n")
        if block.kind == "log" and block.text.count("\n") < SHORT_LOG:
            block.kind = "text"
    return [block for block in blocks if block.text]


def _display(data, about) -> list[Block]:
    """One displayed object, in the richest form that the report keeps."""
    named = {key: about.get(key, "") for key in ("number", "name", "caption")}
    if about.get("kind") == "caption":  # figures and tables bring their own
        return []
    if "image/svg+xml" in data:
        return [Block("figure", "".join(data["image/svg+xml"]), **named)]
    if "image/png" in data:
        png = data["image/png"]
        return [
            Block(
                "picture", base64.b64encode(png).decode() if isinstance(png, bytes) else png.replace("\n", ""), **named
            )
        ]
    if "<table" in data.get("text/html", ""):
        return [Block("table", data["text/html"], **named)]
    if "text/markdown" in data or "text/latex" in data:
        return [Block("markdown", data.get("text/markdown") or data["text/latex"])]
    widget = any("widget" in kind for kind in data)
    return [] if widget or "text/plain" not in data else [Block("text", ANSI.sub("", data["text/plain"]))]


def _title(content, notebook) -> str:
    """The first heading of the first level, its number taken off: "# 04 · Baseline" is called "Baseline"."""
    prefix = notebook.split("_")[0]
    for cell in content.cells:
        found = re.search(r"^# +(.+)$", cell.source, flags=re.MULTILINE) if cell.cell_type == "markdown" else None
        if found:
            number = rf"(?:Appendix\s+)?(?:{prefix}|{prefix.lstrip('0') or '0'})(?![\w.]*\w)[\s.:·—–-]*"
            return re.sub(f"^{number}", "", found[1].strip()) or found[1].strip()
    return notebook.partition("_")[2].replace("_", " ").capitalize()


def _without_title(text: str) -> str:
    return re.sub(r"^# +.+$", "", text, count=1, flags=re.MULTILINE)


def _parameters(content, injected: dict) -> tuple[dict, set]:
    """What the cell tagged `parameters` declares, overruled by what papermill injected; and the names that differ."""
    defaults = {}
    for cell in content.cells:
        if "parameters" in cell.metadata.get("tags", []):
            for line in ast.parse(cell.source).body:
                if isinstance(line, ast.AnnAssign) and line.value is not None:
                    defaults[line.target.id] = ast.literal_eval(line.value)
    values = defaults | injected
    return values, {name for name, value in values.items() if name not in defaults or defaults[name] != value}
