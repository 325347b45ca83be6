"""Execute a notebook, by default in place: python tests/run_notebook.py NOTEBOOK [OUTPUT] [-p NAME VALUE]...

Papermill runs it and shows which cell it is at; parameters take the place of those in the cell tagged `parameters`.
What belongs to one run (clock times, warnings, progress) is left out of the file, which is replaced as a whole. If a
cell fails, its traceback is shown, and the notebook, README.md and the outputs in IMAGES are as they were.
"""

import argparse
import base64
import csv
import os
import re
import shutil
import tempfile
from pathlib import Path

import nbformat
import papermill
import yaml

# Keras's progress, and TensorFlow's warnings, which stand in stdout where Python is interactive
PROGRESS = re.compile(r"^(Epoch \d+/\d+|.*\d+/\d+.*s/step.*|WARNING:tensorflow:.*)\n", re.MULTILINE)


def write(path, text):
    """Write a file that is there whole or not at all."""
    path.parent.mkdir(exist_ok=True)
    part = path.with_name(f".part-{os.getpid()}-{path.name}")
    part.write_text(text, encoding="utf-8")
    os.replace(part, path)


def strip(book):
    """Take away what papermill, Keras's progress and widgets add, and number the cells that are left."""
    book.metadata = {"kernelspec": book.metadata.kernelspec, "language_info": {"name": "python"}}
    book.cells = [cell for cell in book.cells if "injected-parameters" not in cell.metadata.get("tags", [])]
    for cell in book.cells:
        for key in ("papermill", "execution"):
            cell.metadata.pop(key, None)
        if not cell.metadata.get("tags", True):
            del cell.metadata["tags"]
    for number, cell in enumerate((cell for cell in book.cells if cell.cell_type == "code"), 1):
        cell.execution_count, kept = number, []
        for output in cell.outputs:
            if "execution_count" in output:
                output.execution_count = number
            if "text" in output:  # a stream
                output.text = PROGRESS.sub("", output.text)
            widget = any("widget" in kind for kind in output.get("data", {}))
            if output.get("name") != "stderr" and output.get("text", "?").strip() and not widget:
                kept.append(output)
        cell.outputs = kept


def refresh_attachments(book, images):
    """Give the attached pictures that stand in the folder the look of this run."""
    for cell in book.cells:
        for name in cell.get("attachments", {}):
            if (images / name).exists():
                cell.attachments[name] = {"image/png": base64.b64encode((images / name).read_bytes()).decode()}


def refresh_readme(readme, summary):
    """Put the table of the run just made between the two marks."""
    header, *rows = csv.reader(summary.read_text(encoding="utf-8").splitlines())
    lines = "".join(f"| {' | '.join(row)} |\n" for row in [header, ["---"] * len(header), *rows])
    before, rest = readme.read_text(encoding="utf-8").split("images/summary.csv -->\n")
    write(readme, f"{before}images/summary.csv -->\n\n{lines}\n{rest[rest.index('<!-- end of summary') :]}")


def main(source, target, parameters):
    images = source.parent / parameters.get("IMAGES", "images")
    with tempfile.TemporaryDirectory() as folder:
        before = Path(folder, "images")
        if images.exists():
            shutil.copytree(images, before)
        try:
            book = papermill.execute_notebook(source, None, parameters, cwd=source.parent, coalesce_streams=True)
        except BaseException:
            if before.exists():
                shutil.rmtree(images)
                shutil.copytree(before, images)
            raise
    strip(book)
    refresh_attachments(book, images)
    write(target, nbformat.writes(book) + "\n")
    if source == target and source.name == "Model_pruning_exploration.ipynb":
        refresh_readme(source.with_name("README.md"), images / "summary.csv")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, metavar="NOTEBOOK")
    parser.add_argument("target", type=Path, metavar="OUTPUT", nargs="?")
    parser.add_argument("-p", dest="parameters", nargs=2, type=yaml.safe_load, action="append", default=[])
    options = parser.parse_args()
    source = options.source.resolve()
    main(source, options.target.resolve() if options.target else source, dict(options.parameters))
