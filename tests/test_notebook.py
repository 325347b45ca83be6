"""The committed notebook: one clean run from top to bottom that any page can show, and exercises that work."""

import csv
import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PATH = ROOT / "Model_pruning_exploration.ipynb"
CELLS = json.loads(PATH.read_text(encoding="utf-8"))["cells"]
CODE = [cell for cell in CELLS if cell["cell_type"] == "code"]
TEXT = "\n".join("".join(cell["source"]) for cell in CELLS if cell["cell_type"] == "markdown")


def outputs():
    return [(number, output) for number, cell in enumerate(CODE, 1) for output in cell["outputs"]]


def test_is_one_run_from_top_to_bottom():
    assert [cell["execution_count"] for cell in CODE] == list(range(1, len(CODE) + 1))


def test_has_no_error_warning_or_progress_in_its_outputs():
    for number, output in outputs():
        assert output["output_type"] != "error", number
        assert output.get("name") != "stderr", number
        assert "s left" not in "".join(output.get("text", "")), number


def test_outputs_are_for_people():
    """No path of one machine, and no repr of an object where a table, text or picture was meant."""
    for number, output in outputs():
        shown = output.get("data", {})
        text = (
            "".join(output.get("text", []))
            + "".join(shown.get("text/markdown", []))
            + "".join(shown.get("text/html", []))
        )
        if not {"image/png", "text/html", "text/markdown"} & set(shown):
            text += "".join(shown.get("text/plain", []))
        assert not re.search(r"(?<![\w.:/])/(root|home|tmp|usr|opt|var|work|Users)/|[A-Z]:\\\\", text), (number, text)
        assert not re.search(r"<[\w.]+ (at 0x|object|with)|PosixPath|Figure size", text), (number, text)


def test_carries_no_widget_state():
    assert set(json.loads(PATH.read_text(encoding="utf-8"))["metadata"]) <= {"kernelspec", "language_info"}
    assert not any("widget" in kind for _, output in outputs() for kind in output.get("data", {}))


def test_pictures_have_alternative_text():
    pictures = [(number, output) for number, output in outputs() if "image/png" in output.get("data", {})]
    assert len(pictures) >= 10
    for number, output in pictures:
        assert len(output["metadata"].get("image/png", {}).get("alt", "")) > 20, f"code cell {number}"
    assert not re.search(r"!\[\]", TEXT)


def test_is_small_enough_for_the_page():
    assert PATH.stat().st_size < 2_000_000


def test_cells_fit_a_screen_and_are_introduced():
    for number, cell in enumerate(CODE, 1):
        assert len("".join(cell["source"]).splitlines()) <= 30, f"code cell {number}"


def test_percent_signs_stay_outside_formulas():
    assert not re.search(r"\$[^$\n]*%[^$\n]*\$", TEXT)


def test_claims_are_asserted():
    """Each numbered claim section has a cell that fails when the run does not bear it out."""
    sections = re.split(
        r"^## ",
        "\n".join(
            ("".join(cell["source"]) if cell["cell_type"] == "markdown" else "\n#code\n" + "".join(cell["source"]))
            for cell in CELLS
        ),
        flags=re.M,
    )
    claiming = [
        s
        for s in sections
        if s.startswith(
            ("The dense", "Pruning", "How far", "Why", "Zeros", "Removing", "Winning", "What you end", "Is it")
        )
    ]
    assert len(claiming) >= 9
    for section in claiming:
        assert re.search(r"^\s*assert ", section.split("#code", 1)[1], flags=re.M), section.splitlines()[0]


@pytest.mark.parametrize("name", ["MNIST", "FMNIST"])
def test_figures_and_tables_are_there(name):
    pandas = pytest.importorskip("pandas")
    columns = ["dataset", "method", "sparsity", "accuracy", "loss", "compression_ratio", "theoretical_speedup"]
    for kind, extra, rows in (("sparsity_comparisons", [], 20), ("finetuned", ["stage"], 40)):
        assert (ROOT / "images" / f"{name}_{kind}.png").read_bytes().startswith(b"\x89PNG")
        table = pandas.read_csv(ROOT / "images" / f"{name}_{kind}.csv")
        assert sorted(table.columns) == sorted(columns + extra)
        assert len(table) == rows
        assert table["dataset"].eq(name).all()
        assert table["accuracy"].between(0, 1).all()


def test_requirements_and_environment_agree():
    """environment.yml has what runs the notebook, with the same lower bounds and TensorFlow's CPU build."""
    line = re.compile(r"^\s*-?\s*([A-Za-z][\w-]*>=[\d.]+)", re.M)
    runs, _ = (ROOT / "requirements.txt").read_text(encoding="utf-8").split("# What tests it")
    conda = (ROOT / "environment.yml").read_text(encoding="utf-8")
    assert {name.replace("tensorflow>", "tensorflow-cpu>") for name in line.findall(runs)} == set(line.findall(conda))


def readme():
    return (ROOT / "README.md").read_text(encoding="utf-8")


def test_readme_shows_the_table_of_the_committed_run():
    rows = (ROOT / "images" / "summary.csv").read_text(encoding="utf-8").splitlines()
    table = readme().split("<!-- summary")[1].split("<!-- end")[0]
    for row in csv.reader(rows):
        assert f"| {' | '.join(row)} |" in table
    shown = "".join("".join(output.get("data", {}).get("text/html", [])) for _, output in outputs())
    for row in csv.reader(rows[1:]):
        assert all(f"<td>{value}</td>" in shown for value in row), row


def test_readme_example_prints_what_it_says(capsys):
    code, printed = re.search(r"```python\n(.*?)```\n\n```text\n(.*?)```", readme(), flags=re.S).groups()
    exec(compile(code, "README.md", "exec"), {})
    assert capsys.readouterr().out.strip() == printed.strip()
