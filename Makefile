# Two commands do everything on a fresh machine: `make demo` and `make test`.
.DEFAULT_GOAL := help
.PHONY: help setup demo test test-long lint bench clean down

# What imports wrote is half of a start: packages are installed without byte code (requirements/setup.sh).
unexport PYTHONDONTWRITEBYTECODE

venv := $(or $(SERINUS_VENV),.venv)
run := $(venv)/bin
# Has the machine to itself: beside the cluster and the engines that the other tests share it took half as long again.
demo := tests/e2e/test_quickstart.py

help:
	@echo "make demo   raw text to a quantized model in production behind a canary, on this machine (10 to 15 minutes)"
	@echo "make test   tests: unit, integration, end to end, chaos (25 to 50 minutes)"
	@echo "make test-long  these and the long scenes: more kills, faults and parities (an hour; nightly, and before a release)"
	@echo "make lint   ruff, mypy, import contracts, known vulnerabilities of what the locks pin (where osv.dev can be reached)"
	@echo "make bench  the benchmarks, each both sides in one run"
	@echo "make down   stop what the demo left running"
	@echo "make clean  remove .venv, build/ and caches"

setup:
	@requirements/setup.sh

demo: setup
	@$(run)/python recipes/demo.py

test: setup
ifdef TESTS
	@$(run)/python -m pytest $(TESTS)
else
	@$(run)/python -m pytest tests/unit --numprocesses 2 --dist loadfile
	@$(run)/python -m pytest tests/integration tests/chaos tests/e2e --ignore $(demo) --durations 25
	@$(run)/python -m pytest $(demo) --durations 5
endif

test-long: export SERINUS_LONG = 1
test-long: test

lint: setup
	@$(run)/ruff check .
	@$(run)/ruff format --check .
	@$(run)/mypy
	@$(run)/lint-imports
	@$(run)/python requirements/audit.py

bench: setup
	@for file in benchmarks/bench_*.py; do \
		echo "== $$file"; $(run)/python $$file || exit 1; done

down: setup
	@$(run)/serinus down

clean: 
	@if [ -x $(run)/serinus ]; then $(run)/serinus down || true; fi
	rm -rf $(venv) build .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache *.egg-info
