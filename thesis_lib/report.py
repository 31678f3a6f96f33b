"""The report of a profile: executed notebooks and results files in, report.html and report.pdf out.

The summary comes first, then the contents, the numbered notebooks, the appendices, the list of figures and tables, and
what produced it all. A notebook that failed or did not run leaves a box, not a gap.
"""

import html
import re
import tempfile
from pathlib import Path

from thesis_lib import markup, params, paths, rendering, results
from thesis_lib.chapters import Chapter, read

TITLE = "Multimodal pretraining of transformers for recognising the steps of instructional videos"
SUBTITLE = "A master's thesis as a report that executes"
SYNTHETIC = "Synthetic data"
WARNING = (
    "Everything below was measured on a small corpus drawn by a program. "
    "These are not 50Salads results and must not be compared with published numbers."
)
STYLE = Path(__file__).parent / "report_style"
DRAWN_PROFILES = ("smoke", "mini")  # they have no data but the embedded corpus


def build(profile: str) -> tuple[Path, Path]:
    """Write reports/<profile>/report.html and report.pdf; both paths. Notebooks that failed do not stop it."""
    folder = paths.report(profile)
    folder.mkdir(parents=True, exist_ok=True)
    book = chapters(profile)
    documents = results.documents(profile)
    synthetic = is_synthetic(profile, book)
    with tempfile.TemporaryDirectory() as scratch:
        files = Path(scratch)
        document = rendering.Document(book, files, paths.NOTEBOOKS)
        facts = _facts(profile, book, documents)
        document.raw(typst_text=_typst_title(facts, synthetic))
        _problems(document, book)
        for i, chapter in enumerate(book):
            document.chapter(chapter)
            if i == 0:
                document.raw("<!-- contents -->", "#contents()")
        _list_of_figures(document, book)
        _provenance(document, facts, book, documents)
        page, pdf = folder / "report.html", folder / "report.pdf"
        page.write_text(_page(document, facts, synthetic), "utf-8")
        _compile(document, files, pdf, synthetic)
    return page, pdf


def chapters(profile: str) -> list[Chapter]:
    """All notebooks of the report, the summary first; `.state` says "done", "failed" or "not run"."""
    executed = paths.report(profile) / "notebooks"
    ran = {path.name.split(".")[0] for path in executed.glob("[0-9A][0-9]_*.ipynb")}
    names = sorted(ran | set(params.notebooks()), key=lambda name: (not name.startswith("08"), name))
    return [read(name, executed, paths.NOTEBOOKS) for name in names]


def is_synthetic(profile: str, book: list[Chapter]) -> bool:
    """Whether a number of this report may come from the embedded corpus."""
    roots = [chapter.parameters.get("data_root") for chapter in book if chapter.state != "not run"]
    return profile in DRAWN_PROFILES or "" in roots


def _facts(profile, book, documents) -> dict[str, str]:
    """What the whole run has in common, as texts."""
    made = [document["provenance"] for document in documents]
    commits = list(dict.fromkeys(f"{one['commit'][:10]}{' + changes' if one.get('dirty') else ''}" for one in made))
    hardware = list(dict.fromkeys(_hardware(one.get("hardware", {})) for one in made))
    versions = {name: version for one in made for name, version in one.get("versions", {}).items()}
    seeds = sorted({chapter.parameters["seed"] for chapter in book if "seed" in chapter.parameters})
    started = [chapter.started for chapter in book if chapter.started]
    seconds = sum(chapter.seconds or 0 for chapter in book)
    return {
        "profile": profile,
        "started": f"{min(started).replace('T', ' ')[:16]} UTC" if started else "never",
        "time in notebooks": rendering.duration(seconds),
        "commit": ", ".join(commits) or "unknown",
        "seed": ", ".join(map(str, seeds)) or "unknown",
        "hardware": "; ".join(hardware) or "unknown",
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items()) or "unknown",
    }


def _hardware(one: dict) -> str:
    texts = [f"{one.get('cpus', '?')} × {one.get('machine', 'CPU')}", f"{one.get('memory_gb', '?')} GB"]
    return ", ".join([*texts, *(one.get("gpus") or ["no GPU"])])


def _problems(document, book) -> None:
    """What is missing from the report, said before its first number."""
    lines = [
        (
            chapter,
            f"failed in “{chapter.section}”: {chapter.failure}" if chapter.section else f"failed: {chapter.failure}",
        )
        for chapter in book
        if chapter.state == "failed"
    ]
    lines += [(chapter, "was not run") for chapter in book if chapter.state == "not run"]
    if not lines:
        return
    items = [
        f'<li><a href="#{document.anchor(chapter)}">{chapter.notebook}</a> {html.escape(text)}</li>'
        for chapter, text in lines
    ]
    title = "This report is not complete."
    document.raw(f'<aside class="box failed"><strong>{title}</strong><ul>{"".join(items)}</ul></aside>')
    texts = ", ".join(markup.quoted(f"{chapter.notebook} {text}") for chapter, text in lines)
    document.raw(typst_text=f"#incomplete({markup.quoted(title)}, ({texts},))")


def _list_of_figures(document, book) -> None:
    items, listed = [], set()
    for chapter in book:
        for block in chapter.blocks:
            reference = rendering.reference_of(block)
            if block.number and reference not in listed:
                listed.add(reference)
                items.append([{"t": "Plain", "c": document.entry(block, reference, chapter)}])
    if items:
        document.raw('<section class="chapter">')
        document.heading(1, "figures", [{"t": "Str", "c": "Figures and tables"}])
        document.raw('<div class="listing">', "#small[")
        document.blocks.append({"t": "BulletList", "c": items})
        document.raw("</div></section>", "]")


def _provenance(document, facts, book, documents) -> None:
    """What made the numbers: the run, each notebook, and all parameters, those changed from their defaults in bold."""
    document.raw('<section class="chapter provenance">')
    document.heading(1, "provenance", [{"t": "Str", "c": "Provenance"}])
    document.table(_html_table([], [[f"<b>{name}</b>", html.escape(text)] for name, text in facts.items()]))
    memory = {one["notebook"]: one["provenance"].get("peak_memory_mb") for one in documents}
    rows = []
    for chapter in sorted(book, key=lambda one: one.notebook):
        time = "–" if chapter.seconds is None or chapter.state == "not run" else rendering.duration(chapter.seconds)
        used = f"{memory[chapter.notebook]} MB" if memory.get(chapter.notebook) else "–"
        started = chapter.started.replace("T", " ") or "–"
        rows.append([chapter.notebook, chapter.state, started, time, used])
    document.table(_html_table(["notebook", "state", "started (UTC)", "time", "peak memory"], rows))
    rows = []
    for chapter in sorted(book, key=lambda one: one.notebook):
        if chapter.state != "not run":
            pairs = [(name, html.escape(f"{name} = {value!r}")) for name, value in chapter.parameters.items()]
            texts = [f"<b>{text}</b>" if name in chapter.changed else text for name, text in pairs]
            rows.append([chapter.notebook, ", ".join(texts) or "none"])
    if rows:
        document.raw(
            "<p>Parameters of each notebook; bold ones differ from the notebook's own defaults.</p>",
            "Parameters of each notebook; bold ones differ from the notebook's own defaults.\n",
        )
        document.table(_html_table(["notebook", "parameters"], rows))
    document.raw("</section>")


def _html_table(head, rows) -> str:
    """A table from cells that are HTML already."""
    top = f"<thead><tr>{''.join(f'<th>{cell}</th>' for cell in head)}</tr></thead>" if head else ""
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return f'<table class="thesis-table">{top}<tbody>{body}</tbody></table>'


def _page(document, facts, synthetic) -> str:
    entries = []
    for level, anchor, inlines in document.contents:
        if level <= 2:
            entries.append(
                f'<li class="level-{level}"><a href="#{anchor}">{html.escape(markup.plain(inlines))}</a></li>'
            )
    contents = f'<nav id="contents" aria-label="Contents"><h2>Contents</h2><ol>{"".join(entries)}</ol></nav>'
    banner = f'<aside class="banner" role="note"><strong>{SYNTHETIC}.</strong> {WARNING}</aside>' if synthetic else ""
    parts = {
        "title": html.escape(TITLE),
        "subtitle": html.escape(SUBTITLE),
        "meta": html.escape(f"Profile {facts['profile']} · {facts['started']} · commit {facts['commit']}"),
        "banner": banner,
        "ribbon": f'<div class="ribbon" aria-hidden="true">{SYNTHETIC}: not 50Salads results</div>'
        if synthetic
        else "",
        "css": (STYLE / "report.css").read_text("utf-8"),
        "js": (STYLE / "report.js").read_text("utf-8"),
        "body": document.to_html().replace("<!-- contents -->", contents, 1),
    }
    template = (STYLE / "report.html").read_text("utf-8")
    return re.sub(r"\{\{(\w+)\}\}", lambda field: parts[field[1]], template)


def _typst_title(facts, synthetic) -> str:
    texts = [TITLE, SUBTITLE, f"Profile {facts['profile']} · {facts['started']} · commit {facts['commit']}"]
    texts += [f"{SYNTHETIC}.", WARNING] if synthetic else ["", ""]
    return f"#title-block({', '.join(map(markup.quoted, texts))})"


def _compile(document, files: Path, pdf: Path, synthetic: bool) -> None:
    import typst

    ribbon = f"{SYNTHETIC}: not 50Salads results" if synthetic else ""
    setup = f"#show: report.with(title: {markup.quoted(TITLE)}, ribbon: {markup.quoted(ribbon)})\n"
    source = files / "report.typ"
    style = (STYLE / "report.typ").read_text("utf-8")
    source.write_text(f"{style}\n{setup}\n{document.to_typst()}", "utf-8")
    partial = pdf.with_suffix(".partial")
    typst.compile(str(source), output=str(partial), root=str(files), format="pdf")
    partial.replace(pdf)
