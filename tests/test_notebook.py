"""The committed notebooks: clean runs from top to bottom that any page can show; and the tables that they leave."""

import csv
import itertools
import json
import re
import statistics
from pathlib import Path

import pandas as pd
import pytest

from pruning_utils import SPARSITIES

ROOT = Path(__file__).resolve().parent.parent
IMAGES = ROOT / "images"
BOOKS = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(ROOT.glob("*.ipynb"))]
DATASETS = ["MNIST", "FMNIST"]
COLUMNS = ["dataset", "training", "method", "sparsity", "stage"]
NUMBERS = ["accuracy", "loss", "compression_ratio", "theoretical_speedup"]
both = pytest.mark.parametrize("book", BOOKS, ids=["walkthrough", "papers"][: len(BOOKS)])
each_dataset = pytest.mark.parametrize("name", DATASETS)


# The notebooks themselves


@both
def test_every_attached_picture_is_there(book):
    shown = [
        (cell, name) for cell in book["cells"] for name in re.findall(r"\(attachment:(.+?)\)", "".join(cell["source"]))
    ]
    assert shown
    assert all(name in cell.get("attachments", {}) for cell, name in shown)


def code(book):
    return [cell for cell in book["cells"] if cell["cell_type"] == "code"]


def outputs(book):
    return [(number, output) for number, cell in enumerate(code(book), 1) for output in cell["outputs"]]


def text_of(output):
    """What a reader sees of an output, pictures aside."""
    data = output.get("data", {})
    kinds = [kind for kind in ("text/markdown", "text/html") if kind in data]
    if not kinds and "image/png" not in data:
        kinds = ["text/plain"]
    return "".join([*output.get("text", []), *("".join(data.get(kind, [])) for kind in kinds)])


def prose(book):
    """The text of each other cell, with the heading of its section."""
    section = ""
    for cell in book["cells"]:
        if cell["cell_type"] == "markdown":
            text = "".join(cell["source"])
            section = [section, *re.findall(r"^## (.*)", text, flags=re.M)][-1]
            yield section, text


@both
def test_is_one_run_from_top_to_bottom(book):
    assert [cell["execution_count"] for cell in code(book)] == list(range(1, len(code(book)) + 1))


@both
def test_has_no_error_warning_or_progress_in_its_outputs(book):
    for number, output in outputs(book):
        assert output["output_type"] != "error", number
        assert output.get("name") != "stderr", number
        assert not re.search(r"s/step|it/s|s/it|\d%\||WARNING:", text_of(output)), number


@both
def test_outputs_are_for_people(book):
    """No path of one machine, no repr of an object where a table, text or picture was meant, no negative zero."""
    for number, output in outputs(book):
        text = text_of(output)
        assert not re.search(r"(?<![\w.:/])/(root|home|tmp|usr|opt|var|work|Users)/|[A-Z]:\\\\", text), (number, text)
        assert not re.search(r"<[\w.]+ (object|with)|at 0x[0-9a-f]+>|PosixPath|Figure size", text), (number, text)
        assert not re.search(r"-0\.0*(?!\d)", text), (number, text)


@both
def test_carries_nothing_of_widgets_or_of_its_run(book):
    assert set(book["metadata"]) <= {"kernelspec", "language_info"}
    assert not any(set(cell["metadata"]) - {"tags"} for cell in book["cells"])
    assert not any("widget" in kind for _, output in outputs(book) for kind in output.get("data", {}))
    assert len(json.dumps(book)) < 3_000_000


@both
def test_pictures_have_alternative_text(book):
    pictures = [(number, output) for number, output in outputs(book) if "image/png" in output.get("data", {})]
    assert len(pictures) >= 8
    for number, output in pictures:
        assert len(output["metadata"].get("image/png", {}).get("alt", "")) > 20, f"code cell {number}"
    assert not any("![]" in text for _, text in prose(book))


@both
def test_cells_are_short(book):
    lines = [len("".join(cell["source"]).splitlines()) for cell in code(book)]
    assert max(lines) <= 30
    assert statistics.median(lines) <= 5
    assert sum(lines) <= 500
    for section, text in prose(book):
        words = re.sub(r"!\[[^]]*\]\([^)]*\)", "", text).split()  # of what is read: pictures have their text instead
        assert section in ("Exercises", "References") or len(words) <= 130, text


@both
def test_no_cell_is_for_the_machine(book):
    for number, cell in enumerate(code(book), 1):
        assert not re.search(r"\b(gc|malloc\w*|dup2|clear_output)\b", "".join(cell["source"])), number


@both
def test_percent_signs_stay_outside_formulas(book):
    assert not any(re.search(r"\$[^$\n]*%[^$\n]*\$", text) for _, text in prose(book))


# The tables of the walkthrough. Bounds are wide enough for a run on another machine.


def table(name):
    return pd.read_csv(IMAGES / name)


def curve(rows, **wanted):
    """The accuracies by sparsity of the rows that have these values."""
    for column, value in wanted.items():
        rows = rows[rows[column] == value]
    return rows.set_index("sparsity").accuracy


def kept_parameters(method, sparsity):
    """How many parameters the network keeps once that fraction of each hidden layer is gone; counted by hand."""
    units = [784, 1000, 1000, 500, 200, 10]
    if method == "weight":
        *hidden, output = (a * b for a, b in itertools.pairwise(units))
        return sum(size - round(sparsity * size) for size in hidden) + output
    units[1:5] = [size - round(sparsity * size) for size in units[1:5]]
    return sum(a * b for a, b in itertools.pairwise(units))


@each_dataset
def test_the_tables_are_whole(name):
    trainings = ["plain", "L1"] + ["longer"] * (name == "FMNIST")
    one_shot, tuned = table(f"{name}_sparsity_comparisons.csv"), table(f"{name}_finetuned.csv")
    expected = {(name, t, m, s, "one-shot") for t in trainings for m in ("weight", "unit") for s in SPARSITIES}
    assert sorted(map(tuple, one_shot[COLUMNS].values)) == sorted(expected)
    expected = {row for row in expected if row[1] != "longer"}
    expected |= {(name, "L1", m, s, "fine-tuned") for m in ("weight", "unit") for s in SPARSITIES if s >= 0.8}
    assert sorted(map(tuple, tuned[COLUMNS].values)) == sorted(expected)
    for rows in (one_shot, tuned):
        assert rows.columns.tolist() == COLUMNS + NUMBERS
        assert rows.accuracy.between(0, 1).all()
    for kind in ("sparsity_comparisons", "finetuned"):
        assert (IMAGES / f"{name}_{kind}.png").read_bytes().startswith(b"\x89PNG")


@each_dataset
def test_counts_are_exact_and_zeros_were_held(name):
    """A network may have lost more than was pruned, with units that nothing leads to; after fine-tuning, too."""
    rows = pd.concat([table(f"{name}_sparsity_comparisons.csv"), table(f"{name}_finetuned.csv")])
    for row in rows.itertuples():
        expected = 2_386_000 / kept_parameters(row.method, row.sparsity)
        exact = row.sparsity == 0 or (row.training == "plain" and row.method == "unit")
        assert row.compression_ratio == pytest.approx(expected) if exact else row.compression_ratio > expected * 0.9999
        assert row.theoretical_speedup == pytest.approx(row.compression_ratio)


@each_dataset
def test_training_makes_the_plateau(name):
    """The claims of the walkthrough on one-shot pruning: what the penalty costs, and what it gives."""
    rows = table(f"{name}_sparsity_comparisons.csv")
    weights, units = (curve(rows, training="L1", method=method) for method in ("weight", "unit"))
    assert weights[0] > {"MNIST": 0.975, "FMNIST": 0.875}[name]
    assert weights[0.9] > weights[0] - 0.01
    assert units[0.6] > units[0] - 0.01
    assert weights[0.95] > units[0.95]
    controls = ["plain"] + ["longer"] * (name == "FMNIST")
    for control in controls:
        plain_weights, plain_units = (curve(rows, training=control, method=method) for method in ("weight", "unit"))
        assert plain_weights[0] > weights[0] - 0.03
        assert plain_weights[0.95] < weights[0.95] - 0.1
        assert plain_units[0.8] < units[0.8] - 0.1
        assert plain_weights[0.8] > plain_units[0.8]


@each_dataset
def test_fine_tuning_wins_accuracy_back(name):
    rows = table(f"{name}_finetuned.csv")
    for method, sparsity in (("weight", 0.97), ("unit", 0.9)):
        before, after = (curve(rows, training="L1", method=method, stage=s) for s in ("one-shot", "fine-tuned"))
        assert after[sparsity] > before[sparsity]
        assert after[sparsity] > before[0] - 0.01
        assert (after[after.index >= 0.97] > before[before.index >= 0.97]).all()


def test_the_end_table_has_the_accuracies_of_five_seeds():
    rows, measured = table("summary.csv"), seeds()
    measured = measured[(measured.training == "L1") & (measured.criterion == "magnitude")]
    assert rows["data"].tolist() == [name for name in DATASETS for _ in range(3)]
    assert rows["network"].tolist() == ["dense", "weight pruning", "unit pruning"] * 2
    for row in rows.to_dict("records"):
        method, sparsity = row["network"].split()[0], float(row["sparsity"].rstrip("%")) / 100
        stage, method = ("one-shot", "unit") if method == "dense" else ("fine-tuned", method)
        mine = measured[(measured.dataset == row["data"]) & (measured.method == method) & (measured.stage == stage)]
        accuracy = 100 * mine[mine.sparsity == sparsity].accuracy
        assert row["accuracy"] == f"{accuracy.mean():.2f} ± {accuracy.std():.2f}"
        assert row["within 0.25"] in [f"{number} of 5" for number in range(1, 6)]


# Five seeds


def seeds():
    return table("seeds.csv")


def test_there_are_five_seeds_of_one_kind():
    rows = seeds()
    assert set(rows.columns) == {"seed", *COLUMNS, *NUMBERS, "criterion", "validation_accuracy"}
    kinds = [*COLUMNS, "criterion"]
    first, *others = (rows[rows.seed == seed][kinds].reset_index(drop=True) for seed in range(5))
    assert sorted(rows.seed.unique()) == [0, 1, 2, 3, 4]
    assert all(other.equals(first) for other in others)
    assert not first.duplicated().any()
    assert set(first.stage) == {"one-shot", "fine-tuned", "scratch", "trained-on"}
    assert rows.validation_accuracy.between(0, 1).all()


def test_seed_0_is_the_walkthrough():
    own = pd.concat(
        [table(f"{name}_{kind}.csv") for name in DATASETS for kind in ("sparsity_comparisons", "finetuned")]
    )
    own = own.drop_duplicates(COLUMNS).set_index(COLUMNS).sort_index()
    rows = seeds()
    rows = rows[(rows.seed == 0) & (rows.criterion == "magnitude") & rows.stage.isin(["one-shot", "fine-tuned"])]
    rows = rows.set_index(COLUMNS).sort_index()
    pd.testing.assert_frame_equal(rows[NUMBERS], own[NUMBERS])


def test_the_end_table_follows_its_rule():
    """The sparsest fine-tuned network whose validation accuracy is at most 0.25 points below the dense network's."""
    rows, end = seeds(), table("summary.csv").set_index(["data", "network"])
    rows = rows[(rows.seed == 0) & (rows.criterion == "magnitude") & (rows.training == "L1")]
    for name in DATASETS:
        mine = rows[rows.dataset == name]
        limit = mine[(mine.sparsity == 0) & (mine.stage == "one-shot")].validation_accuracy.iloc[0] - 0.0025
        for method in ("weight", "unit"):
            good = mine[(mine.method == method) & (mine.stage == "fine-tuned") & (mine.validation_accuracy >= limit)]
            assert end.loc[(name, f"{method} pruning"), "sparsity"] == f"{good.sparsity.max():.0%}"


@each_dataset
def test_random_pruning_is_worse(name):
    rows = seeds()
    rows = rows[(rows.dataset == name) & (rows.training == "L1") & (rows.stage == "one-shot")]
    mean = rows.groupby(["criterion", "method", "sparsity"]).accuracy.mean()
    assert mean["magnitude", "weight", 0.9] > mean["random", "weight", 0.9] + 0.2
    assert mean["magnitude", "unit", 0.8] > mean["random", "unit", 0.8] + 0.2


# What else has to agree


def test_requirements_agree():
    """environment.yml has what runs the notebooks, with TensorFlow's CPU build; the package what the module needs."""
    line = re.compile(r'^[\s"-]*([A-Za-z][\w-]*>=[\d.]+)', re.M)
    runs = (ROOT / "requirements.txt").read_text(encoding="utf-8").split("# What makes")[0]
    conda = (ROOT / "environment.yml").read_text(encoding="utf-8")
    assert {name.replace("tensorflow>", "tensorflow-cpu>") for name in line.findall(runs)} == set(line.findall(conda))
    package = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    needed = set(re.findall(r'"([a-z]+>=[\d.]+)"', package.split("[project]")[1]))
    assert len(needed) == 6
    assert needed <= set(line.findall(runs))


def readme():
    return (ROOT / "README.md").read_text(encoding="utf-8")


def test_readme_shows_the_table_of_the_committed_run():
    rows = (IMAGES / "summary.csv").read_text(encoding="utf-8").splitlines()
    in_readme = readme().split("<!-- summary")[1].split("<!-- end")[0]
    for row in csv.reader(rows):
        assert f"| {' | '.join(row)} |" in in_readme
    shown = "".join(text_of(output) for _, output in outputs(BOOKS[0]))
    for row in csv.reader(rows[1:]):
        assert all(f"<td>{value}</td>" in shown for value in row), row


def test_readme_example_prints_what_it_says(capsys):
    example, printed = re.search(r"```python\n(.*?)```\n\n```text\n(.*?)```", readme(), flags=re.S).groups()
    exec(compile(example, "README.md", "exec"), {})
    assert capsys.readouterr().out.strip() == printed.strip()
