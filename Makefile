PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin/python
WALKTHROUGH = Model_pruning_exploration.ipynb
PAPERS = Pruning_papers_in_miniature.ipynb
MODULE_TESTS = $(filter-out tests/test_notebook%.py,$(wildcard tests/test_*.py))
JAX ?= jax
TORCH ?= torch==2.13.0
MUTMUT = KERAS_BACKEND=torch OMP_NUM_THREADS=1 ../../.venv-torch/bin/mutmut
export TF_CPP_MIN_LOG_LEVEL ?= 3

.PHONY: run papers seeds test coverage test-e2e test-backends test-jax test-torch test-oldest test-colab mutants lab lint unit notebook-test html bench clean

run: $(VENV)/ready  ## execute the walkthrough; leaves its outputs, the figures and their tables. ARGS="-p SEED 1" sets a parameter
	$(BIN) tests/run_notebook.py $(WALKTHROUGH) $(ARGS)

papers: $(VENV)/ready  ## execute the second notebook
	$(BIN) tests/run_notebook.py $(PAPERS) $(ARGS)

seeds: $(VENV)/ready  ## the walkthrough and its controls for five seeds; SCHEDULER=tcp://… sends the runs to a Dask cluster
	$(BIN) benchmarks/seeds.py $(ARGS)

test: lint unit notebook-test  ## lint, the unit tests, and the whole walkthrough as a test

test-e2e: $(VENV)/ready  ## both notebooks alone in 2 GB, in JupyterLab, as pages in a browser; the seeds on a cluster
	$(BIN) -m pytest -s tests/e2e

test-backends: test-jax test-torch  ## the unit tests of the module under Keras's other backends

test-jax test-torch: test-%: .venv-%/ready
	KERAS_BACKEND=$* .venv-$*/bin/python -m pytest -n auto $(MODULE_TESTS)

test-oldest: .venv-oldest/ready  ## the unit tests with the oldest versions in requirements.txt: PYTHON=python3.10
	.venv-oldest/bin/python -m pytest -n auto

test-colab: .venv-colab/ready  ## the notebooks alone, with the versions Colab had in August 2026: PYTHON=python3.13
	.venv-colab/bin/python -m pytest -s tests/e2e/test_alone.py

mutants: .venv-torch/ready  ## change the module in 300 random places, and see whether its unit tests notice, under torch
	.venv-torch/bin/python -m pip install --quiet mutmut==3.8.1
	rm -rf build/mutants
	mkdir -p build/mutants
	cp -r pruning_utils.py pyproject.toml data tests build/mutants
	rm build/mutants/tests/test_notebook*.py
	mv build/mutants/tests/mutmut.cfg build/mutants/setup.cfg
	cd build/mutants && $(MUTMUT) run '*.x_weight_mask__mutmut_1'  # which makes all of them and runs one
	cd build/mutants && $(MUTMUT) run $$($(MUTMUT) results --all true | grep -o 'pruning_utils[^:]*' | shuf -n 300)
	cd build/mutants && $(MUTMUT) results | grep -v 'not checked'

lab: $(VENV)/ready  ## open the walkthrough in JupyterLab
	$(BIN) -m jupyterlab $(WALKTHROUGH)

lint: $(VENV)/ready
	$(BIN) -m ruff check .
	$(BIN) -m ruff format --check .

unit: $(VENV)/ready  # without nbval, which they do not need and which takes seconds to import
	$(BIN) -m pytest -n auto -p no:nbval

coverage: $(VENV)/ready  ## the unit tests again, slower, to see that they run every line and branch of the module
	$(BIN) -m pytest -n auto -p no:nbval --cov=pruning_utils --cov-branch --cov-fail-under=100

notebook-test: $(VENV)/ready  # on a copy, since the notebook writes images/, whose committed state is that of one run
	rm -rf build/notebook
	mkdir -p build/notebook
	cp -r $(WALKTHROUGH) pruning_utils.py data build/notebook
	$(BIN) -m pytest --nbval-lax --nbval-current-env --nbval-cell-timeout=900 build/notebook/$(WALKTHROUGH)

html: $(VENV)/ready  ## the executed notebooks as pages, each one file: build/*.html
	$(BIN) tests/make_page.py $(WALKTHROUGH) $(WALKTHROUGH:%.ipynb=build/%.html)
	$(BIN) tests/make_page.py $(PAPERS) $(PAPERS:%.ipynb=build/%.html)

bench: $(VENV)/ready  ## speed and memory of pruning, removal and the sweep, and speed of the pruned networks, as ratios
	env -u OPENBLAS_CORETYPE $(BIN) benchmarks/speed.py

# What each environment changes in requirements.txt, and what it adds; .venv takes it as it is.
.venv-jax/ready .venv-torch/ready: EDIT = /^(tensorflow|jupyterlab|papermill|joblib|dask|nbconvert|nbval|pytest-cov|ruff|playwright)\W/d
.venv-jax/ready: EXTRA = $(JAX)
.venv-torch/ready: EXTRA = $(TORCH)
.venv-oldest/ready: EDIT = s/>=/==/
.venv-colab/ready: EXTRA = 'tensorflow==2.20.*' 'keras==3.13.*' 'numpy==2.1.*'

%/ready: requirements.txt
	$(PYTHON) -m venv $*
	sed -E '$(EDIT)' $< > $*/requirements.txt
	$*/bin/python -m pip install --quiet -r $*/requirements.txt $(EXTRA)
	touch $@

clean:
	rm -rf $(VENV) .venv-jax .venv-torch .venv-oldest .venv-colab build
