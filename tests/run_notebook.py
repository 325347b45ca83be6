"""Execute a notebook in place: python tests/run_notebook.py NOTEBOOK [OUTPUT]

Shows in the terminal which cell runs and the progress inside it, and leaves neither in the notebook. A cell that
fails ends the run with its traceback, and then the file is left as it was.
"""

import base64
import csv
import os
import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient


class Runner(NotebookClient):
    """A client that repeats on the terminal what cells print to stdout while they run."""

    def process_message(self, msg, cell, cell_index):
        if msg["msg_type"] == "stream" and msg["content"]["text"].strip():
            tell(f"   {msg['content']['text'].strip()}")
        return super().process_message(msg, cell, cell_index)


def tell(text):
    """One line of progress on stderr, rewritten in place where that is a terminal."""
    if sys.stderr.isatty():
        print(f"\r{text[:110]:<110}", end="", file=sys.stderr, flush=True)
    else:
        print(text, file=sys.stderr, flush=True)


def refresh_readme(root):
    """Put the table of the run just made between the two marks in README.md."""
    readme = root / "README.md"
    with open(root / "images" / "summary.csv", encoding="utf-8", newline="") as file:
        header, *rows = csv.reader(file)
    table = [header, ["---"] * len(header), *rows]
    before, rest = readme.read_text(encoding="utf-8").split("images/summary.csv -->\n")
    after = rest[rest.index("<!-- end of summary") :]
    lines = "".join(f"| {' | '.join(row)} |\n" for row in table)
    readme.write_text(f"{before}images/summary.csv -->\n\n{lines}\n{after}", encoding="utf-8")


def main(source, target):
    book = nbformat.read(source, as_version=4)
    start, code = time.time(), [i for i, cell in enumerate(book.cells) if cell.cell_type == "code"]

    def starting(cell, cell_index):
        if cell.cell_type == "code":
            tell(f"cell {code.index(cell_index) + 1} of {len(code)}, {time.time() - start:.0f} s: {cell.source[:60]!r}")

    client = Runner(book, timeout=1200, resources={"metadata": {"path": str(source.parent)}}, on_cell_start=starting)
    client.execute()
    for cell in book.cells:
        cell.metadata.pop("execution", None)  # clock times of one run
        for output in cell.get("outputs", []):
            output.get("data", {}).pop("application/vnd.jupyter.widget-view+json", None)
        for name in cell.get("attachments", {}):  # the pictures at the top show this run, too
            picture = source.parent / "images" / name
            cell.attachments[name] = {"image/png": base64.b64encode(picture.read_bytes()).decode()}
    book.metadata.pop("widgets", None)
    book.metadata.language_info = {"name": "python"}
    part = target.with_name(f".part-{os.getpid()}-{target.name}")
    nbformat.write(book, part)
    os.replace(part, target)
    if source == target:
        refresh_readme(source.parent)
    tell(f"executed {len(code)} cells in {time.time() - start:.0f} s")
    print(file=sys.stderr)


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    paths = [Path(argument).resolve() for argument in sys.argv[1:]]
    main(paths[0], paths[-1])
