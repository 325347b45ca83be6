"""The notebooks as Colab and Binder run them: alone in an empty folder, and in 2 GB of memory on one core.

One run under nbval serves both; the two notebooks run side by side. `pruning_utils.py` comes from the address in
PRUNING_UTILS_URL, the data from Keras's cache, the variables from environment.yml, and the solutions of the exercises
stand behind the last cell.

Where we may make control groups, as root may, each run has one with a hard limit of 2 GB, like a container on Binder:
the kernel drops what it can read again from disk, and kills the run if that is not enough. Elsewhere we compare with
the limit what is resident in all the processes of the run, every 0.1 s, mapped files included: that is stricter.
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
import psutil
import pytest
import yaml
from conftest import BOOKS, ENVIRONMENT, ROOT

LIMIT = 2 * 1024**3
NBVAL = ["-m", "pytest", "--nbval-lax", "--nbval-current-env", "--nbval-cell-timeout=1800", "notebook.ipynb"]

# Keras compares the checksum of a cached mnist.npz with that of its own: another archive, of the same arrays.
ACCEPT = """import keras

mnist = keras.datasets.mnist.load_data.__globals__
mnist["get_file"] = lambda file_hash=None, get_file=mnist["get_file"], **options: get_file(**options)"""

both = pytest.mark.parametrize("name", BOOKS)


def solutions(book):
    folded = [part for cell in book.cells for part in re.findall(r"<details>.*?</details>", cell.source, flags=re.S)]
    return [code for part in folded for code in re.findall(r"```python\n(.*?)```", part, flags=re.S)]


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


def make_group(name):
    """A new control group of the kernel (version 1 or 2) limited to LIMIT, without swap; None where we may not."""
    kinds = (
        ("/sys/fs/cgroup/memory", {"memory.limit_in_bytes": LIMIT, "memory.swappiness": 0}),
        ("/sys/fs/cgroup", {"memory.max": LIMIT, "memory.swap.max": 0}),
    )
    for root, settings in kinds:
        folder = Path(root, f"keras-pruning-{os.getpid()}-{name}")
        try:
            folder.mkdir()
            for file, value in settings.items():
                (folder / file).write_text(str(value))
            return folder
        except OSError:
            if folder.exists():
                folder.rmdir()


def start(book, folder, keras_home, core):
    """The run of a notebook in the folder: a process on one core, in a control group if we may make one."""
    book = nbformat.from_dict(book)
    first = next(i for i, cell in enumerate(book.cells) if "import pruning_utils" in cell.source)
    book.cells.insert(first, nbformat.v4.new_code_cell(ACCEPT))
    book.cells += [nbformat.v4.new_code_cell(code) for code in solutions(book)]
    nbformat.write(book, folder / "notebook.ipynb")
    group = make_group(folder.name)

    def confine():
        os.sched_setaffinity(0, {core})
        if group:
            (group / "cgroup.procs").write_text(str(os.getpid()))

    module = (ROOT / "pruning_utils.py").as_uri()
    binder = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))["variables"]
    environment = ENVIRONMENT | binder | {"PRUNING_UTILS_URL": module, "KERAS_HOME": str(keras_home)}
    with (folder / "log.txt").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, *NBVAL],
            **{"cwd": folder, "env": environment, "stdout": log, "stderr": log, "start_new_session": True},
            preexec_fn=confine,
        )
    return SimpleNamespace(folder=folder, group=group, process=process, peak=0, seconds=0, dead=0)


def watch(run):
    """Whether the run goes on; notes the memory in use, unless the kernel does."""
    if run.process.poll() is not None:
        return False
    try:
        family = psutil.Process(run.process.pid).children(recursive=True)
        run.peak = max(run.peak, sum(process.memory_info().rss for process in family))
        zombie = any(process.status() == psutil.STATUS_ZOMBIE for process in family)
        run.dead = run.dead + 1 if zombie else 0  # looks in a row: a kernel that was killed, for which nbval would wait
    except psutil.NoSuchProcess:
        return True  # one that ended meanwhile
    if run.dead > 100 or (run.peak > LIMIT and not run.group):
        os.killpg(run.process.pid, signal.SIGTERM)
    return True


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The finished runs by the names of the notebooks."""
    keras_home = tmp_path_factory.mktemp("keras")
    fill_cache(keras_home / "datasets")
    cores, began = sorted(os.sched_getaffinity(0)), time.monotonic()
    runs = {}
    for number, name in enumerate(BOOKS):
        folder = tmp_path_factory.mktemp(f"alone{number}")
        book = nbformat.read(ROOT / name, as_version=4)
        runs[name] = start(book, folder, keras_home, cores[number % len(cores)])
    going = dict(runs)
    while going:
        time.sleep(0.1)
        for name, run in list(going.items()):
            if not watch(run):
                run.seconds = time.monotonic() - began
                del going[name]
    for name, run in runs.items():
        held = "2048 allowed"
        if run.group:  # which counts shared pages once, and files that can be dropped
            kept = ("memory.max_usage_in_bytes", "memory.peak")
            file = next(run.group / file for file in kept if (run.group / file).exists())
            held, run.peak = "held to 2048 by the kernel", int(file.read_text())
            run.group.rmdir()
        print(f"\n{name} alone, on one core: {run.seconds:.0f} s, {run.peak / 2**20:.0f} MiB at most ({held})")
    return runs


@both
def test_every_cell_runs(runs, name):
    """Those of the notebook and the solutions; nbval says which one does not, and why."""
    run = runs[name]
    log = (run.folder / "log.txt").read_text()
    assert run.peak <= LIMIT or run.group, f"{run.peak / 2**20:.0f} MiB:\n{log[-1000:]}"
    assert run.process.returncode == 0, f"{run.process.returncode} after\n{log[-5000:]}"
    passed = int(re.search(r"(\d+) passed", log).group(1))
    assert passed > sum(cell.cell_type == "code" for cell in nbformat.read(ROOT / name, as_version=4).cells)


@both
def test_fetches_only_the_module(runs, name):
    folder = runs[name].folder
    assert (folder / "pruning_utils.py").read_bytes() == (ROOT / "pruning_utils.py").read_bytes()
    assert {path.name for path in folder.iterdir() if path.is_dir()} <= {"images", "__pycache__", ".pytest_cache"}


def test_make_every_figure_and_table(runs):
    made = {path.name for run in runs.values() for path in (run.folder / "images").glob("*")}
    assert made | {"seeds.csv"} == {path.name for path in (ROOT / "images").iterdir()} | {"seeds.csv"}


@both
def test_there_are_exercises(name):
    assert len(solutions(nbformat.read(ROOT / name, as_version=4))) >= 3
