"""What executes the notebooks, tried on a small one: tests/run_notebook.py and benchmarks/seeds.py."""

import base64
import json
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parent.parent
NAME = "Model_pruning_exploration.ipynb"
README = "before\n<!-- summary: written by `make run` from images/summary.csv -->\n{}<!-- end of summary -->\nafter\n"
EPOCH = "\r\x1b[1m40/63\x1b[0m \x1b[32m━━━\x1b[0m 0s 1ms/step\r\x1b[1m63/63\x1b[0m \x1b[32m━━━━━\x1b[0m 0s 2ms/step\n"
CELLS = (
    "import sys\nimport ipywidgets\nfrom pathlib import Path\nfrom IPython.display import display",
    ("SEED = 0\nIMAGES = 'images'\nFAIL = False", "parameters"),
    "Path(IMAGES).mkdir(exist_ok=True)\n"
    "Path(IMAGES, 'top.png').write_text('new')\n"
    "Path(IMAGES, 'summary.csv').write_text('data,accuracy\\nMNIST,98%\\n');",
    f"print('one\\nEpoch 1/2\\n', {EPOCH!r}, 'Epoch 2/2\\n', sep='', end='', flush=True)\n"
    f"print({EPOCH!r}, 'WARNING:tensorflow:no\\ntwo', sep='')",
    "print('a warning', file=sys.stderr)\ndisplay(ipywidgets.IntSlider())",
    "assert not FAIL\nSEED + 1",
)


def run(script, *arguments, cwd):
    return subprocess.run([sys.executable, script, *arguments], cwd=cwd, capture_output=True, text=True)


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def folder(tmp_path):
    """A small repository: notebook, README, and a picture of an earlier run."""
    code = [cell if isinstance(cell, tuple) else (cell,) for cell in CELLS]
    pictures = {name: {"image/png": base64.b64encode(b"old").decode()} for name in ("top.png", "drawing.png")}
    cells = [nbformat.v4.new_markdown_cell("# Title", attachments=pictures)]
    cells += [nbformat.v4.new_code_cell(text, metadata={"tags": tags} if tags else {}) for text, *tags in code]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), tmp_path / NAME)
    (tmp_path / "README.md").write_text(README.format("\nold\n\n"))
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "top.png").write_text("old")
    return tmp_path


def test_leaves_what_a_reader_wants_to_see(folder):
    done = run(ROOT / "tests" / "run_notebook.py", NAME, "-p", "SEED", "3", cwd=folder)
    assert done.returncode == 0, done.stderr
    book = json.loads((folder / NAME).read_text())
    assert book["metadata"].keys() == {"kernelspec", "language_info"}
    title, *code = book["cells"]
    assert len(code) == len(CELLS)
    assert [cell["execution_count"] for cell in code] == [1, 2, 3, 4, 5, 6]
    assert [cell["metadata"] for cell in code] == [{}, {"tags": ["parameters"]}, {}, {}, {}, {}]
    shown = [output for cell in code for output in cell["outputs"]]
    assert ["".join(output.get("text", [])) for output in shown] == ["one\ntwo\n", ""]
    assert shown[1]["data"] == {"text/plain": ["4"]}
    assert shown[1]["execution_count"] == 6
    attached = {name: base64.b64decode(data["image/png"]) for name, data in title["attachments"].items()}
    assert attached == {"top.png": b"new", "drawing.png": b"old"}
    table = "\n| data | accuracy |\n| --- | --- |\n| MNIST | 98% |\n\n"
    assert (folder / "README.md").read_text() == README.format(table)
    assert not list(folder.rglob(".part*"))


def test_writes_elsewhere_and_leaves_the_rest(folder):
    before = contents(folder)
    done = run(ROOT / "tests" / "run_notebook.py", NAME, "out.ipynb", "-p", "IMAGES", "other", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert {path: text for path, text in contents(folder).items() if path in before} == before


def test_a_failure_leaves_everything_as_it_was(folder):
    before = contents(folder)
    done = run(ROOT / "tests" / "run_notebook.py", NAME, "-p", "FAIL", "True", cwd=folder)
    assert done.returncode != 0
    assert "assert not FAIL" in done.stderr
    assert contents(folder) == before


def test_seeds_are_run_once_and_gathered_when_all_are_there(folder):
    """The second of three runs fails at first."""
    (folder / "benchmarks").mkdir()
    shutil.copy(ROOT / "benchmarks" / "seeds.py", folder / "benchmarks")
    (folder / "pruning_utils.py").touch()
    (folder / "benchmarks" / "controls.py").write_text(
        "with open('log', 'a') as log:\n    log.write(f'{SEED} ')\n"
        "assert SEED != 1 or Path('well').exists()\n"
        "Path(IMAGES, 'seed.csv').write_text(f'seed,value\\n{SEED},{FAIL}\\n{SEED},0.1\\n')\n"
    )
    seeds = ["benchmarks/seeds.py", "-n", "3", "-p", "FAIL", "0"]
    assert run(*seeds, cwd=folder).returncode != 0
    assert not (folder / "images" / "seeds.csv").exists()
    (folder / "well").touch()
    done = run(*seeds, cwd=folder)
    assert done.returncode == 0, done.stderr
    assert (folder / "log").read_text() == "0 1 1 2 "
    assert (folder / "images" / "seeds.csv").read_text() == "seed,value\n0,0\n0,0.1\n1,0\n1,0.1\n2,0\n2,0.1\n"
    assert {path.name for path in (folder / "images").iterdir()} == {"top.png", "seeds.csv"}

    (folder / "pruning_utils.py").write_text("# another module: what is there is not its")
    assert run(*seeds[:1], "-n", "1", *seeds[3:], cwd=folder).returncode == 0
    assert (folder / "log").read_text() == "0 1 1 2 0 "
    assert not list(folder.rglob(".part*"))
