# The two commands of the README: `make demo` and `make test`.
PYTHON ?= python3.11
VENV ?= .venv
BIN = $(VENV)/bin
PIP = $(BIN)/python -m pip --disable-pip-version-check
PYTEST = $(BIN)/python -m pytest

.PHONY: help demo test quick slow lint types contracts docs figures check-install clean

help: ## Show the targets.
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/'

$(VENV)/.demo: pyproject.toml constraints.txt plugins/bertkit-minilm/pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet -c constraints.txt pip
	$(PIP) install --quiet -c constraints.txt torch
	$(PIP) install --quiet -c constraints.txt -e . -e plugins/bertkit-minilm
	@touch $@

$(VENV)/.dev: $(VENV)/.demo
	$(PIP) install --quiet -c constraints.txt -e . -e plugins/bertkit-minilm --group dev --group docs
	@touch $@

demo: $(VENV)/.demo ## Fine-tune MiniLM on the support messages, offline.
	$(BIN)/bertkit run docs/examples/support/demo.yaml --overwrite

test: $(VENV)/.dev lint types contracts ## Everything that must hold, in under ten minutes.
	$(PYTEST) -m "not slow" -n 2 --dist loadfile
	$(PYTEST) plugins -p no:cacheprovider

quick: $(VENV)/.dev ## The tests alone; ARGS="tests/test_spec.py -k yaml" chooses some.
	$(PYTEST) -m "not slow" $(ARGS)

slow: $(VENV)/.dev ## The tests that take minutes.
	$(PYTEST) -m slow

lint: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(VENV)/.dev
	$(BIN)/mypy

contracts: $(VENV)/.dev
	$(BIN)/lint-imports

docs: $(VENV)/.dev ## Build the docs site into site/.
	$(BIN)/python docs/generate_reference.py --check
	$(BIN)/zensical build --clean --strict

# DATA=amazon_review_sentences.csv, TWEETS=tweets.csv and PACKAGES=Packages.xz (of a Debian release) add theirs.
figures: $(VENV)/.dev ## Print the figures of README and guides, for two hours and more with all of DATA, TWEETS, PACKAGES.
	$(PIP) install --quiet -c constraints.txt --group demo
	$(BIN)/python docs/figures/chinese_reviews.py --seeds 0 1
	$(if $(DATA),$(BIN)/python docs/figures/amazon.py $(DATA))
	$(if $(DATA),$(BIN)/python docs/figures/few_labels.py $(DATA))
	$(if $(DATA),$(BIN)/python docs/figures/long_texts.py $(DATA))
	$(if $(DATA),$(BIN)/python docs/figures/methods.py $(DATA))
	$(if $(TWEETS),$(BIN)/python docs/figures/tasks.py regression $(TWEETS))
	$(if $(PACKAGES),$(BIN)/python docs/figures/tasks.py multi-label $(PACKAGES))
	$(if $(PACKAGES),$(BIN)/python docs/figures/tasks.py pairs $(PACKAGES))
	$(BIN)/python docs/figures/start_up.py
	$(BIN)/python docs/figures/lines.py

check-install: ## `pip install .` alone gives a working library and command.
	$(PYTHON) -m venv $(VENV)-plain
	$(VENV)-plain/bin/python -m pip install --quiet -c constraints.txt torch
	$(VENV)-plain/bin/python -m pip install --quiet -c constraints.txt .
	cd / && $(abspath $(VENV)-plain)/bin/python $(CURDIR)/tests/plain_install.py

clean: ## Remove what the targets above made.
	rm -rf $(VENV) $(VENV)-plain site build dist *.egg-info plugins/*/*.egg-info runs
