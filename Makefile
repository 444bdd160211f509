# Everything here sets itself up: a fresh machine needs Python >= 3.11 with pip and venv, and make.
#
#   make demo    finds the text lines on a scanned page, and shows what fusion is worth
#   make test    passes the tests; make test-long those that are marked as long, whole models among them
#   make lint | types | fuzz | bench | clean; make fuzz EXAMPLES=10000 draws so many random graphs

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
TESTS ?= tests
THREADS ?= 1,2
MODELS ?= resnet50,mobilenet_v2,efficientnet_b0
EXAMPLES ?= 0

.PHONY: demo test test-long lint types fuzz bench clean
.DELETE_ON_ERROR:

demo: $(VENV)/.demo
	$(BIN)/python examples/ocr.py

test: $(VENV)/.dev
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "not long" $(TESTS) $(PYTEST_ARGS)

test-long: $(VENV)/.dev
	$(BIN)/python -m pytest -n 2 --dist worksteal -m long $(TESTS) $(PYTEST_ARGS)

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# mypy reads no editable install, so it is shown the rooms under the names they are installed by.
types: $(VENV)/.dev
	rm -rf build/types && mkdir -p build/types/glulam
	for file in glulam/*; do ln -s "$(CURDIR)/$$file" build/types/$$file; done
	for room in compiler runtime frontends; do ln -s "$(CURDIR)/$$room" build/types/glulam/$$room; done
	ln -s "$(CURDIR)/benchmarks" build/types/glulam/benchmarks
	cd build/types && "$(CURDIR)/$(BIN)/mypy" --config-file "$(CURDIR)/pyproject.toml" \
		--cache-dir "$(CURDIR)/.mypy_cache" -p glulam.compiler -p glulam.runtime

fuzz: $(VENV)/.dev
	GLULAM_FUZZ_EXAMPLES=$(EXAMPLES) $(BIN)/python -m pytest -p tests.fuzz_profile -n 2 tests -k fuzz $(PYTEST_ARGS)

bench: $(VENV)/.bench
	$(BIN)/python -m glulam.benchmarks.run --models $(MODELS) --threads $(THREADS) --peers --json out/bench.json
	$(BIN)/python -m glulam.benchmarks.report out/bench.json

clean:
	rm -rf $(VENV) build dist out .mypy_cache .ruff_cache .pytest_cache .hypothesis *.egg-info

$(VENV)/pyvenv.cfg:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "glulam needs Python 3.11 or newer; \
	try: make PYTHON=python3.12 $(MAKECMDGOALS)")'
	$(PYTHON) -m venv $(VENV)

# One stamp per set of extras; a changed pyproject.toml installs again.
$(VENV)/.%: pyproject.toml | $(VENV)/pyvenv.cfg
	@echo "installing glulam with its '$*' extra into $(VENV) (once)"
	@$(PIP) install --editable '.[$*]'
	@touch $@
