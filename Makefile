PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin/python
NOTEBOOK = Model_pruning_exploration.ipynb

.PHONY: run test test-e2e lab lint unit notebook-test html bench clean

run: $(VENV)/ready  ## execute the notebook; leaves its outputs, the figures and their tables
	$(BIN) tests/run_notebook.py $(NOTEBOOK)

test: lint unit notebook-test  ## lint, the unit tests, and the whole notebook as a test

test-e2e: $(VENV)/ready  ## the notebook alone in 2 GB, in JupyterLab, and as a page in a browser
	$(BIN) -m pytest -s tests/e2e

lab: $(VENV)/ready  ## open the notebook in JupyterLab
	$(BIN) -m jupyterlab $(NOTEBOOK)

lint: $(VENV)/ready
	$(BIN) -m ruff check .
	$(BIN) -m ruff format --check .

unit: $(VENV)/ready
	$(BIN) -m pytest -n auto --cov=pruning_utils --cov-branch --cov-fail-under=100

notebook-test: $(VENV)/ready
	$(BIN) -m pytest --nbval-lax --nbval-current-env --nbval-cell-timeout=900 $(NOTEBOOK)

html: $(VENV)/ready  ## the executed notebook as one page, build/Model_pruning_exploration.html
	$(BIN) tests/make_page.py $(NOTEBOOK) build/Model_pruning_exploration.html

bench: $(VENV)/ready  ## speed of the sweep and of the pruned networks
	env -u OPENBLAS_CORETYPE $(BIN) benchmarks/sweep.py

$(VENV)/ready: requirements.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN) -m pip install --quiet -r requirements.txt
	touch $@

clean:
	rm -rf $(VENV) build
