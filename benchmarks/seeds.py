"""The walkthrough and its controls for five seeds: python benchmarks/seeds.py [OUTPUT] [-p NAME VALUE]... [-n SEEDS]

Papermill runs the walkthrough unchanged, with controls.py as one last cell, for each seed; the tables are gathered in
OUTPUT (images/seeds.csv). What a run returned is kept in build/seeds/, under a name that depends on the code of
notebook, controls and module and on the parameters, and is not run again. The runs go through joblib, one after the
other, or with SCHEDULER=tcp://… to the workers of a Dask cluster (two of them or more: one alone is no help, and joblib
runs them here). Workers are started in the folder of a clone of this repository, with its environment.
"""

import argparse
import contextlib
import hashlib
import os
import tempfile
from pathlib import Path

import joblib
import nbformat
import papermill
import yaml
from tqdm import tqdm

ROOT = Path(__file__).resolve().parent.parent


def walkthrough():
    """The notebook with the controls behind it, and what it runs: the text of its code and of the module."""
    book = nbformat.read(ROOT / "Model_pruning_exploration.ipynb", as_version=4)
    book.cells.append(nbformat.v4.new_code_cell((ROOT / "benchmarks" / "controls.py").read_text(encoding="utf-8")))
    code = [cell.source for cell in book.cells if cell.cell_type == "code"]
    return book, "\n".join([*code, (ROOT / "pruning_utils.py").read_text(encoding="utf-8")])


def run(seed, book, parameters):
    """The seed, and its tables as CSV; needs the module and the data in the folder that the process was started in."""
    with tempfile.TemporaryDirectory() as folder:
        settings = parameters | {"SEED": seed, "IMAGES": folder}
        papermill.execute_notebook(book, None, settings, progress_bar={"desc": f"seed {seed}", "leave": False})
        return seed, Path(folder, "seed.csv").read_text(encoding="utf-8")


def write(path, text):
    """Write a file that is there whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".part-{os.getpid()}-{path.name}")
    part.write_text(text, encoding="utf-8")
    os.replace(part, path)


def main(output, seeds, parameters):
    book, code = walkthrough()
    key = hashlib.sha256(f"{sorted(parameters.items())}\n{code}".encode()).hexdigest()[:12]
    files = {seed: ROOT / "build" / "seeds" / f"{key}-{seed}.csv" for seed in range(seeds)}
    missing = [seed for seed, file in files.items() if not file.exists()]
    with contextlib.ExitStack() as stack:
        if scheduler := os.environ.get("SCHEDULER"):
            from distributed import Client

            stack.enter_context(Client(scheduler))
            stack.enter_context(joblib.parallel_config("dask"))
        parallel = joblib.Parallel(batch_size=1, pre_dispatch="all", return_as="generator_unordered")
        tables = parallel(joblib.delayed(run)(seed, book, parameters) for seed in missing)
        for seed, table in tqdm(tables, "runs", total=len(files), initial=len(files) - len(missing)):
            write(files[seed], table)
    tables = [file.read_text(encoding="utf-8").splitlines() for file in files.values()]
    write(output, "\n".join([tables[0][0], *(row for _, *rows in tables for row in rows), ""]))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", metavar="OUTPUT", nargs="?", type=Path, default=ROOT / "images" / "seeds.csv")
    parser.add_argument("-n", dest="seeds", type=int, default=5)
    parser.add_argument("-p", dest="parameters", nargs=2, type=yaml.safe_load, action="append", default=[])
    options = parser.parse_args()
    main(options.output.resolve(), options.seeds, dict(options.parameters))
