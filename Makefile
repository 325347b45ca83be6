PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin/python
NOTEBOOK = Model_pruning_exploration.ipynb
MODULE_TESTS = $(filter-out tests/test_notebook.py,$(wildcard tests/test_*.py))
JAX ?= jax
TORCH ?= torch==2.13.0

.PHONY: run test coverage test-e2e test-backends test-jax test-torch test-oldest test-colab mutants lab lint unit notebook-test html bench clean

run: $(VENV)/ready  ## execute the notebook; leaves its outputs, the figures and their tables
	$(BIN) tests/run_notebook.py $(NOTEBOOK)

test: lint unit notebook-test  ## lint, the unit tests, and the whole notebook as a test

test-e2e: $(VENV)/ready  ## the notebook alone in 2 GB, in JupyterLab, and as a page in a browser
	$(BIN) -m pytest -s tests/e2e

test-backends: test-jax test-torch  ## the unit tests of the module under Keras's other backends

test-jax test-torch: test-%: .venv-%/ready
	KERAS_BACKEND=$* .venv-$*/bin/python -m pytest -n auto $(MODULE_TESTS)

test-oldest: .venv-oldest/ready  ## the unit tests with the oldest versions in requirements.txt: PYTHON=python3.10
	.venv-oldest/bin/python -m pytest -n auto

test-colab: .venv-colab/ready  ## the notebook alone, with the versions Colab had in August 2026: PYTHON=python3.13
	.venv-colab/bin/python -m pytest -s tests/e2e/test_alone.py

mutants: .venv-torch/ready  ## change the module in every place, and see whether its unit tests notice, under torch
	.venv-torch/bin/python -m pip install --quiet mutmut==3.8.1
	rm -rf build/mutants
	mkdir -p build/mutants
	cp -r pruning_utils.py pyproject.toml data tests build/mutants
	mv build/mutants/tests/mutmut.cfg build/mutants/setup.cfg
	cd build/mutants && KERAS_BACKEND=torch OMP_NUM_THREADS=1 ../../.venv-torch/bin/mutmut run
	cd build/mutants && ../../.venv-torch/bin/mutmut results

lab: $(VENV)/ready  ## open the notebook in JupyterLab
	$(BIN) -m jupyterlab $(NOTEBOOK)

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
	cp -r $(NOTEBOOK) pruning_utils.py data build/notebook
	$(BIN) -m pytest --nbval-lax --nbval-current-env --nbval-cell-timeout=900 build/notebook/$(NOTEBOOK)

html: $(VENV)/ready  ## the executed notebook as one page, build/Model_pruning_exploration.html
	$(BIN) tests/make_page.py $(NOTEBOOK) build/Model_pruning_exploration.html

bench: $(VENV)/ready  ## speed of the sweep and of the pruned networks
	env -u OPENBLAS_CORETYPE $(BIN) benchmarks/sweep.py

# What each environment changes in requirements.txt, and what it adds; .venv takes it as it is.
.venv-jax/ready .venv-torch/ready: EDIT = /^(tensorflow|jupyterlab|nbconvert|nbval|pytest-cov|ruff|playwright)>/d
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
