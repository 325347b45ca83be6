"""The notebook as Colab and Binder run it: alone in an empty folder, and in 2 GB of memory on one core.

One run serves both. `pruning_utils.py` comes from the address in PRUNING_UTILS_URL, the data from Keras's cache, and
the solutions of the exercises stand behind the last cell.

Where we may make a control group, as root may, the run has one with a hard limit of 2 GB, like a container on Binder:
the kernel drops what it can read again from disk, and kills the run if that is not enough. Elsewhere we compare with
the limit what is resident in all the processes of the run, every 0.1 s, mapped files included: that is stricter.
(RLIMIT_AS and RLIMIT_DATA would count addresses, of which TensorFlow and the stacks of threads take hundreds of MB
without using them, and RLIMIT_RSS is ignored by Linux.)
"""

import gzip
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import nbformat
import numpy as np
import pytest
from conftest import ENVIRONMENT, ROOT

NOTEBOOK = nbformat.read(ROOT / "Model_pruning_exploration.ipynb", as_version=4)
SOLUTIONS = [
    code
    for cell in NOTEBOOK.cells
    for details in re.findall(r"<details>.*?</details>", cell.source, flags=re.S)
    for code in re.findall(r"```python\n(.*?)```", details, flags=re.S)
]
LIMIT = 2 * 1024**3

# Keras compares the checksum of a cached mnist.npz with that of its own: another archive, of the same arrays.
ACCEPT = """import keras

mnist = keras.datasets.mnist.load_data.__globals__
mnist["get_file"] = lambda file_hash=None, get_file=mnist["get_file"], **options: get_file(**options)"""


def fill_cache(folder):
    """Put the data where keras.datasets looks for them before it downloads."""
    (folder / "fashion-mnist").mkdir(parents=True)
    shutil.copy(ROOT / "data" / "mnist.npz", folder / "mnist.npz")
    with np.load(ROOT / "data" / "fashion_mnist.npz") as arrays:
        for part, file in (("train", "train"), ("test", "t10k")):
            for letter, kind in (("x", "images-idx3"), ("y", "labels-idx1")):
                array = arrays[f"{letter}_{part}"]
                header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">i4").tobytes()
                raw = gzip.compress(header + array.tobytes(), compresslevel=1)
                (folder / "fashion-mnist" / f"{file}-{kind}-ubyte.gz").write_bytes(raw)


def resident(root):
    """Bytes of memory in use by the process `root` and all that descend from it."""
    parents, sizes = {}, {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(path.parent.name)] = int(path.read_text().rpartition(")")[2].split()[1])
            sizes[int(path.parent.name)] = int((path.parent / "statm").read_text().split()[1])
        except (OSError, ValueError):
            continue  # it ended meanwhile
    family, size = {root}, 0
    while family:
        size += sum(sizes.get(process, 0) for process in family)
        family = {child for child, parent in parents.items() if parent in family}
    return size * os.sysconf("SC_PAGE_SIZE")


def peak_file(group):
    """The name of the file in which the kernel keeps the most memory that the control group has used."""
    return next(name for name in ("memory.max_usage_in_bytes", "memory.peak") if (group / name).exists())


def confine(group):
    """One core, and the control group, for this process and all it starts."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    if group:
        (group / "cgroup.procs").write_text(str(os.getpid()))


@pytest.fixture(scope="module")
def group():
    """A new control group of the kernel (version 1 or 2) limited to LIMIT, without swap; None where we may not."""
    name = f"keras-pruning-{os.getpid()}"
    kinds = (
        ("/sys/fs/cgroup/memory", {"memory.limit_in_bytes": LIMIT, "memory.swappiness": 0}),
        ("/sys/fs/cgroup", {"memory.max": LIMIT, "memory.swap.max": 0}),
    )
    for root, settings in kinds:
        folder = Path(root, name)
        try:
            folder.mkdir()
            for file, value in settings.items():
                (folder / file).write_text(str(value))
            break
        except OSError:
            if folder.exists():
                folder.rmdir()
    else:
        folder = None
    yield folder
    if folder:
        folder.rmdir()


@pytest.fixture(scope="module")
def run(tmp_path_factory, group):
    """The finished run: its folder and its code cells; prints the time it took and the peak of its memory."""
    if not Path("/proc/self/statm").exists():
        pytest.skip("memory is measured in /proc, which this system does not have")
    keras_home, folder = tmp_path_factory.mktemp("keras"), tmp_path_factory.mktemp("alone")
    fill_cache(keras_home / "datasets")
    book = nbformat.from_dict(NOTEBOOK)
    first = next(i for i, cell in enumerate(book.cells) if "import pruning_utils" in cell.source)
    book.cells.insert(first, nbformat.v4.new_code_cell(ACCEPT))
    for code in SOLUTIONS:  # one that fails does not stop the others
        book.cells.append(nbformat.v4.new_code_cell(code, metadata={"tags": ["raises-exception"]}))
    nbformat.write(book, folder / "notebook.ipynb")

    module = (ROOT / "pruning_utils.py").as_uri()
    environment = ENVIRONMENT | {"PRUNING_UTILS_URL": module, "KERAS_HOME": str(keras_home)}
    log, start, peak = folder / "log.txt", time.monotonic(), 0
    with log.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, ROOT / "tests" / "run_notebook.py", "notebook.ipynb", "executed.ipynb"],
            **{"cwd": folder, "env": environment, "stdout": file, "stderr": file, "start_new_session": True},
            preexec_fn=lambda: confine(group),
        )
        status = 0
        while not status:
            time.sleep(0.1)
            peak = max(peak, resident(process.pid))
            if peak > LIMIT and not group:
                os.killpg(process.pid, signal.SIGTERM)
            status, code, usage = os.wait4(process.pid, os.WNOHANG)
    process.returncode = os.waitstatus_to_exitcode(code)
    peak, seconds = max(peak, usage.ru_maxrss * 1024), time.monotonic() - start
    held = "2048 allowed"
    if group:  # which counts shared pages once, and files that can be dropped
        held, peak = "held to 2048 by the kernel", int((group / peak_file(group)).read_text())
    print(f"\nthe notebook alone, on one core: {seconds:.0f} s, {peak / 2**20:.0f} MiB at most ({held})")
    assert group or peak <= LIMIT, f"{peak / 2**20:.0f} MiB:\n{log.read_text()[-1000:]}"
    assert process.returncode == 0, log.read_text()[-3000:]
    executed = nbformat.read(folder / "executed.ipynb", as_version=4)
    return SimpleNamespace(folder=folder, cells=[cell for cell in executed.cells if cell.cell_type == "code"])


def test_fetches_only_the_module(run):
    assert (run.folder / "pruning_utils.py").read_bytes() == (ROOT / "pruning_utils.py").read_bytes()
    assert {path.name for path in run.folder.iterdir() if path.is_dir()} <= {"images", "__pycache__"}


def test_no_cell_fails(run):
    cells = run.cells[: len(run.cells) - len(SOLUTIONS)]
    assert len(cells) > 30
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert not [output for cell in cells for output in cell.outputs if output.output_type == "error"]


def test_makes_every_figure_and_table(run):
    made = {path.name for path in (run.folder / "images").iterdir()}
    assert made == {path.name for path in (ROOT / "images").iterdir()}
    shown = sum("image/png" in output.get("data", {}) for cell in run.cells for output in cell.outputs)
    assert shown >= 12


def test_there_are_exercises():
    assert len(SOLUTIONS) >= 3


@pytest.mark.parametrize("number", range(len(SOLUTIONS)))
def test_solution_works(run, number):
    cell = run.cells[number - len(SOLUTIONS)]
    assert cell.source == SOLUTIONS[number].strip() or cell.source == SOLUTIONS[number]
    assert cell.execution_count
    errors = ["\n".join(output.traceback) for output in cell.outputs if output.output_type == "error"]
    assert not errors, errors[0]
