# make demo   a miniature world, a tokenizer, a model trained from scratch, fine-tuned, examined; ends with a line to talk to it
# make test   every test
# make oracle the exam beside lm-eval's, adapters beside peft's, GGUF beside llama.cpp, litellm as a client (a large install)
# make lint   formatting, types, and the order of the rooms
# make lock   the exact versions, anew
.PHONY: demo test oracle lint lock clean
PYTHON ?= python3
VENV := .venv
PIP := $(VENV)/bin/python -m pip --disable-pip-version-check -q

demo: $(VENV)/.installed
	$(VENV)/bin/hanlin run world

test: $(VENV)/.installed-dev
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -q -n 2 --dist worksteal

oracle: $(VENV)/.installed-dev
	$(PIP) install -c requirements.lock -e '.[oracle]'
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -q tests/evaluation/test_lm_eval.py tests/models/test_lora.py tests/training/test_lora.py tests/serving/test_gguf.py tests/serving/test_clients.py tests/serving/test_lm_eval_http.py

lint: $(VENV)/.installed-dev
	$(VENV)/bin/ruff format --check src tests benchmarks
	$(VENV)/bin/ruff check src tests benchmarks
	$(VENV)/bin/lint-imports
	$(VENV)/bin/pyright

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit("hanlin needs Python 3.11 or newer; this is " + sys.version.split()[0] + ". Name another: make PYTHON=python3.12 …" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml requirements.lock | $(VENV)/bin/python
	@echo "installing into $(VENV) (torch is large: the first time takes some minutes)"
	$(PIP) install -c requirements.lock -e .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(PIP) install -c requirements.lock -e '.[dev]'
	@touch $@

lock: $(VENV)/.installed-dev
	$(PIP) install -e '.[oracle]'
	$(VENV)/bin/python -m pip freeze --exclude-editable | sed 's/+cpu$$//' > requirements.lock

clean:
	rm -rf $(VENV) build dist
