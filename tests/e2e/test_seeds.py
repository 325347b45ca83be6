"""`make seeds` on a cluster of two worker processes, with few images and epochs."""

import os
import subprocess
import sys

import pandas as pd
from conftest import ROOT
from distributed import LocalCluster

SMALL = {"EXAMPLES": 2_400, "EPOCHS": 1, "TUNE_EPOCHS": 1}


def test_runs_go_to_the_workers_and_come_back_as_one_table(tmp_path):
    parameters = [text for name, value in SMALL.items() for text in ("-p", name, str(value))]
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster:
        subprocess.run(
            [sys.executable, "benchmarks/seeds.py", tmp_path / "seeds.csv", "-n", "2", *parameters],
            **{"cwd": ROOT, "check": True, "env": os.environ | {"SCHEDULER": cluster.scheduler_address}},
        )
    assert [path.name for path in tmp_path.iterdir()] == ["seeds.csv"]
    table = pd.read_csv(tmp_path / "seeds.csv")
    assert table.seed.unique().tolist() == [0, 1]
    first, second = (table[table.seed == seed].drop(columns="seed").reset_index(drop=True) for seed in (0, 1))
    assert len(first) == len(second) == 164
    settings = ["dataset", "training", "method", "sparsity", "stage", "criterion"]
    assert first[settings].equals(second[settings])
    assert not first.accuracy.equals(second.accuracy)
    assert table.validation_accuracy.between(0, 1).all()
