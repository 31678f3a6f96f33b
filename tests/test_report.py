"""The report: built from small notebooks made here, then read as a reader's browser would."""

import json
import re
import shutil
import subprocess

import pandas as pd
import pypandoc
import pytest
import typst
from bs4 import BeautifulSoup
from nbformat import v4, write

from thesis_lib import figures, markup, params, paths, report, tables

PARAMETERS = 'profile: str = "smoke"  # which folder of params\nseed: int = 0  # of all random numbers\n'
PARAMETERS += 'data_root: str = ""  # real data, if any\nepochs: int = 2  # of training'
METADATA = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}


def code(source, *outputs, tags=()):
    return v4.new_code_cell(source, outputs=list(outputs), metadata={"tags": list(tags)})


def shown(kind, number, data, caption="A claim with $x^2$."):
    about = {"kind": kind, "number": number, "name": f"n{number}", "caption": caption}
    return v4.new_output("display_data", data=data, metadata={"thesis": about})


def printed(text, stream="stdout"):
    return v4.new_output("stream", name=stream, text=text)


def svg():
    return figures.to_svg(figures.bars(pd.DataFrame({"crop": ["front", "back"], "value": [0.2, 0.3]}), "crop", "value"))


def notebook(title, *cells):
    return [v4.new_markdown_cell(f"# {title}\n\nWhat it asks."), code(PARAMETERS, tags=["parameters"]), *cells]


WIDE = pd.DataFrame({f"quantity number {i}": [0.125 + i, 0.25] for i in range(12)})
BOOK = {
    "00_reading_guide": notebook(
        "00 · Reading guide",
        v4.new_markdown_cell(
            "## Setup\n\nList:\n- $\\frac{a}{b}$\n"
            "- [there](04_baseline.ipynb#curves), [chapter](../notebooks/04_baseline.ipynb), "
            "[nowhere](#missing), [paper](https://example.org/a), ![remote](https://example.org/a.png)\n\n"
            '<img src="https://example.org/b.png"><script src="https://example.org/c.js"></script>\n\nКириллица'
        ),
    ),
    "04_baseline": notebook(
        "04 · Baseline",
        v4.new_markdown_cell("## Setup\n\n## Curves\n\nSee [Figure 4.1](#fig-4-1) and [Table 4.1](#tab-4-1)."),
        code("a = 1\nb = 2", printed("epoch 1  loss 2.0\n" * 30), printed("a warning\n", "stderr")),
        code("print(50)", printed("50 videos\n")),
        code("report.figure(fig)", shown("figure", "4.1", {"image/svg+xml": svg(), "text/plain": "no"})),
        code("x", shown("caption", "4.1", {"text/markdown": "**Figure 4.1.** twice", "text/plain": "twice"})),
        code("report.table(frame)", shown("table", "4.1", {"text/html": tables.to_html(WIDE), "text/plain": "t"})),
        code("Markdown(text)", v4.new_output("display_data", data={"text/markdown": "Said by **numbers**: 0.871"})),
    ),
    "05_pretraining.failed": [
        v4.new_markdown_cell(
            "<span>An Exception was encountered</span>", metadata={"tags": ["papermill-error-cell-tag"]}
        ),
        *notebook(
            "05 · Pretraining",
            v4.new_markdown_cell("## Clusters"),
            code(
                "train(<clusters>)",
                v4.new_output("error", ename="ValueError", evalue="32 < 64\nmore", traceback=["\x1b[31mlong"]),
            ),
            v4.new_markdown_cell("## Never reached"),
        ),
    ],
    "08_summary": notebook("08 · Summary", v4.new_markdown_cell("The answer.")),
}


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    patch = pytest.MonkeyPatch()
    root = tmp_path_factory.mktemp("report")
    patch.setattr(paths, "REPORTS", root / "reports")
    patch.setattr(paths, "NOTEBOOKS", root / "notebooks")
    folder = paths.report("mini")
    for place in (paths.NOTEBOOKS, folder / "notebooks", folder / "results"):
        place.mkdir(parents=True)
    for name, cells in BOOK.items():
        about = {
            "parameters": {"profile": "mini", "epochs": 7},
            "start_time": "2026-05-04T10:11:12.5+00:00",
            "duration": 61.2,
        }
        write(
            v4.new_notebook(cells=cells, metadata=METADATA | {"papermill": about}),
            folder / "notebooks" / f"{name}.ipynb",
        )
    write(
        v4.new_notebook(cells=notebook("07 · Fine-tuning"), metadata=METADATA), paths.NOTEBOOKS / "07_fine_tuning.ipynb"
    )
    provenance = {
        "commit": "0123456789abcdef",
        "dirty": True,
        "versions": {"torch": "2.13.0"},
        "hardware": {"machine": "x86_64", "cpus": 2, "memory_gb": 15.6, "gpus": []},
        "peak_memory_mb": 812,
    }
    document = {"schema": 1, "notebook": "04_baseline", "profile": "mini", "provenance": provenance, "rows": []}
    (folder / "results" / "04_baseline.json").write_text(json.dumps(document))
    page, pdf = report.build("mini")
    yield BeautifulSoup(page.read_text("utf-8"), "html.parser"), page, pdf
    patch.undo()


def test_one_file_without_anything_from_outside(built):
    soup, page, _ = built
    for tag in soup(src=True):
        assert tag["src"].startswith("data:"), tag.name
    assert not soup("link") and not soup("iframe") and len(soup("script")) == 1
    assert "@import" not in soup.style.text and "url(" not in soup.style.text
    assert "http" not in soup.script.text
    assert {tag["href"] for tag in soup(href=re.compile("^http"))} == {
        "https://example.org/a"
    }  # a citation, only a link
    assert page.stat().st_size < 15e6


def test_order_summary_first_and_contents_after(built):
    soup, *_ = built
    titles = [tag.text for tag in soup.main("h2") if not tag.find_parent("nav")]
    assert titles[:5] == ["Summary", "0 Reading guide", "4 Baseline", "5 Pretraining", "7 Fine-tuning"]
    assert titles[5:] == ["Figures and tables", "Provenance"]
    assert soup.find(id="contents").find_previous("h2").text == "Summary"
    assert [link.text for link in soup.find(id="contents")("a")][:4] == [
        "Summary",
        "0 Reading guide",
        "Setup",
        "4 Baseline",
    ]


def test_every_inner_link_leads_somewhere_and_ids_are_unique(built):
    soup, *_ = built
    ids = [tag["id"] for tag in soup(id=True)]
    assert len(ids) == len(set(ids))
    inner = [tag["href"][1:] for tag in soup(href=re.compile("^#"))]
    assert set(inner) <= set(ids) and {"fig-4-1", "tab-4-1", "nb-04", "nb-04-curves"} <= set(inner)
    assert "nowhere" in soup.text and not soup.find("a", string="nowhere")


def test_figures_and_tables_have_number_caption_and_notebook(built):
    soup, *_ = built
    figure, table = soup.find(id="fig-4-1"), soup.find(id="tab-4-1")
    assert " ".join(figure.figcaption.text.split()).startswith("Figure 4.1. A claim with") and figure.figcaption.math
    assert " ".join(table.figcaption.text.split()).startswith("Table 4.1. A claim") and len(table.table("tr")) == 3
    assert figure.img["src"].startswith("data:image/svg+xml;base64,") and "A claim" in figure.img["alt"]
    assert figure.find(class_="origin")["href"] == "notebooks/04_baseline.ipynb"
    assert (
        " ".join(soup.text.split()).count("Figure 4.1. A claim") == 2
    )  # under the picture and in the list; the notebook's own line is gone
    assert "**Figure" not in soup.text


def test_code_and_logs_are_folded_short_output_is_not(built):
    soup, *_ = built
    folds = [tag.summary.text for tag in soup("details")]
    assert {"code · 2 lines", "code · 1 line", "log · 30 lines"} <= set(folds)
    assert soup.find("pre", string="50 videos") and not soup.find("pre", string="50 videos").find_parent("details")
    assert "a warning" not in soup.text


def test_markdown_is_read_as_jupyter_reads_it(built):
    soup, *_ = built
    assert any("list:" in paragraph.text.lower() for paragraph in soup("p")) and soup.find("li").find("a") is not None
    assert soup.find("mfrac") and "Кириллица" in soup.text
    assert soup.find("strong", string="numbers")


def test_failed_and_missing_notebooks_leave_boxes(built):
    soup, *_ = built
    box = soup.find(class_="failed", role="alert")
    assert "05_pretraining, section “Clusters”" in box.text and box.code.text == "ValueError: 32 < 64"
    assert box.pre.text == "train(<clusters>)"
    assert "Never reached" not in soup.text and "Exception was encountered" not in soup.text
    assert "07_fine_tuning was not run" in soup.find("aside", class_="missing").text
    first = soup.main.find("aside", class_="failed")
    assert "not complete" in first.text and "32 < 64" in first.text and "07_fine_tuning" in first.text
    assert {chapter.notebook: chapter.state for chapter in report.chapters("mini")}["05_pretraining"] == "failed"


def test_the_later_of_two_runs_counts(built):
    folder = paths.report("mini") / "notebooks"
    newer = folder / "05_pretraining.ipynb"
    write(v4.new_notebook(cells=notebook("05 · Again"), metadata=METADATA), newer)
    try:
        states = {chapter.notebook: chapter.state for chapter in report.chapters("mini")}
        assert states["05_pretraining"] == "done"
    finally:
        newer.unlink()


def test_synthetic_data_is_said_loudly(built):
    soup, *_ = built
    banner = soup.find(class_="banner").text
    assert "not 50Salads results" in banner and "must not be compared with published numbers" in banner
    assert "not 50Salads results" in soup.find(class_="ribbon").text


def test_real_data_has_no_banner(built):
    book = report.chapters("mini")
    for chapter in book:
        chapter.parameters["data_root"] = "/data/50salads"
    assert not report.is_synthetic("50salads", book) and report.is_synthetic("mini", book)
    book[0].parameters["data_root"] = ""
    assert report.is_synthetic("50salads", book)


def test_provenance_tells_commit_parameters_and_times(built):
    soup, *_ = built
    foot = soup.find(class_="provenance").text
    for text in ("0123456789 + changes", "torch 2.13.0", "2 × x86_64", "812 MB", "61 s", "2026-05-04 10:11"):
        assert text in foot
    cells = soup.find(class_="provenance")("table")[-1]("b")
    assert {cell.text for cell in cells} == {"profile = 'mini'", "epochs = 7"}  # changed; seed and data_root are not


def test_pdf_holds_text_pages_and_numbers(built):
    *_, pdf = built
    assert pdf.read_bytes().startswith(b"%PDF-")
    if not shutil.which("pdftotext"):
        pytest.skip("pdftotext is not installed: what the PDF says cannot be read")
    text = subprocess.run(["pdftotext", "-layout", pdf, "-"], capture_output=True, text=True, check=True).stdout
    flat = " ".join(text.split())
    for part in (
        "not 50Salads results",
        "Figure 4.1. A claim",
        "Said by numbers: 0.871",
        "Кириллица",
        "ValueError: 32 < 64",
    ):
        assert part in flat
    assert "11.125" in flat and flat.count("quantity number 11") == 1  # the twelfth column is on the page
    assert flat.index("The answer.") < flat.index("Contents") < flat.index("0 Reading guide")
    assert "train loss 2.0" not in flat and "a = 1" not in flat


def test_the_same_notebooks_give_the_same_page(built):
    _, page, _ = built
    before = page.read_bytes()
    assert report.build("mini")[0].read_bytes() == before


def test_a_report_without_any_run_still_builds(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "REPORTS", tmp_path)
    monkeypatch.setattr(params, "notebooks", lambda: ["08_summary"])
    monkeypatch.setattr(paths, "NOTEBOOKS", tmp_path / "absent")
    page, pdf = report.build("smoke")
    assert "08_summary was not run" in page.read_text() and pdf.is_file()


def test_a_broken_notebook_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "REPORTS", tmp_path)
    (tmp_path / "smoke" / "notebooks").mkdir(parents=True)
    (tmp_path / "smoke" / "notebooks" / "04_baseline.ipynb").write_text('{"cells": [')
    with pytest.raises(ValueError, match="04_baseline.ipynb: not a notebook"):
        report.build("smoke")


def test_outputs_cannot_bring_scripts_along():
    text = '<style>x</style><table onclick=1><tr><td>1<script>alert(1)</script></td></tr></table><img src="http://a/b.png">'
    assert "script" not in str(markup.clean(text)) and "http" not in str(markup.clean(text))


def test_typst_tables_keep_alignment_spans_and_quotes():
    head = '<thead><tr><th>a "b"</th><th>c</th></tr></thead>'
    body = '<tr><td colspan="2">x\\y</td></tr><tr><td>k</td><td><b>1.5</b></td></tr>'
    text = markup.typst_table(markup.clean(f"<table>{head}{body}</table>"))
    assert text.startswith('#fitted-table(false, 2, (left, left,), table.header([#strong[#"a \\"b\\""]]')
    assert 'table.cell(colspan: 2, )[#"x\\\\y"]' in text and '[#strong[#"1.5"]]' in text


def test_a_metric_is_no_address():
    words = "F1@50 of [one](https://x.org) and <https://y.org>"
    assert "mailto" not in str(markup.parse([words])) and str(markup.parse([words])).count("'Link'") == 2


def test_signs_that_typst_has_renamed_are_known(tmp_path):
    style = (report.STYLE / "report.typ").read_text("utf-8")
    body = pypandoc.convert_text(r"$A \cap B \bigcap C \otimes D \times \dot{E} \cdot F$", "typst", format="markdown")
    (tmp_path / "a.typ").write_text(f"{style}\n{body}", "utf-8")
    assert typst.compile(str(tmp_path / "a.typ")).startswith(b"%PDF")
