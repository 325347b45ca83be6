"""The pages that `make html` writes, opened in a browser without a network."""

import re
import subprocess
import sys

import pytest
from conftest import BOOKS, ROOT


@pytest.fixture(params=BOOKS)
def shown(page, build, request):
    """The open page, and in `page.requested` every address that it asked for beside its own."""
    notebook = ROOT / request.param
    target = build / f"{notebook.stem}.html"
    subprocess.run([sys.executable, ROOT / "tests" / "make_page.py", notebook, target], check=True)
    page.context.set_offline(True)
    page.requested, page.complaints = [], []
    page.on("request", lambda request: page.requested.append(request.url))
    page.on("console", lambda message: page.complaints.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: page.complaints.append(str(error)))
    page.goto(target.as_uri(), wait_until="load")
    page.screenshot(path=build / f"{notebook.stem}.png")
    return page


def test_is_one_file_that_needs_no_network(shown):
    own, *others = shown.requested
    assert own.startswith("file:")
    assert not [url for url in others if not url.startswith("data:")]
    assert not shown.complaints


def test_pictures_are_whole_and_have_alternative_text(shown):
    pictures = shown.locator("img").evaluate_all("all => all.map(i => [i.alt, i.naturalWidth, i.clientWidth])")
    assert len(pictures) >= 8
    for alt, width, shown_width in pictures:
        assert width > 100, alt
        assert 100 < shown_width <= 1400, alt
        assert len(alt) > 20, alt
        assert "No description" not in alt


def test_text_is_for_people(shown):
    """No repr of an object, no formula, Markdown or HTML left as its source, no error."""
    words = shown.locator(".jp-MarkdownOutput, .jp-RenderedMarkdown, .jp-OutputArea-output").all_inner_texts()
    text = "\n".join(words)
    assert len(text) > 5_000
    formulas = r"\$[^$\n]+\$", r"\\\(|\\\[|\\[a-z]+\{"
    objects = r"<[\w.]+ (at 0x|object)", r"PosixPath|Figure size|Styler", "Traceback"
    sources = r"\]\(", r"!\[", r"\*\*\w", r"</?(?!NA>)\w+>", "<!--", r"^```"
    found = [match.group() for raw in (*formulas, *objects, *sources) for match in re.finditer(raw, text, re.M)]
    assert not found


def test_solutions_are_folded_and_unfold(shown):
    solutions = shown.locator("details")
    assert solutions.count() >= 3
    for solution in solutions.all():
        code = solution.locator("pre")
        assert not code.is_visible()
        solution.locator("summary").click()
        assert code.is_visible()


def test_fits_a_phone(shown, build, request):
    """Text and pictures are no wider than a narrow screen; what must be wider (code, tables) scrolls by itself."""
    shown.set_viewport_size({"width": 390, "height": 800})
    shown.screenshot(path=build / f"{request.node.callspec.params['shown'][:-6]}_phone.png")
    widths = shown.locator(".jp-RenderedMarkdown p, img").evaluate_all("all => all.map(i => i.clientWidth)")
    assert max(widths) <= 390
