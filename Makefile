# The commands of the project. `make demo` and `make test` set up everything that they need.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Elsewhere plain `torch` is a build with CUDA, five times as large: give the address of PyTorch's CPU wheel index here.
TORCH_INDEX ?=
# Options of the demo: make demo DEMO="--scenario steady --once --json"
DEMO ?=

TORCH_FLAGS := $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX),)
# Two workers, whole files each: the tests of one file share servers and models. `tests/conftest.py` gives the order.
TWO := -n 2 --dist loadfile --no-loadscope-reorder
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet install -c constraints.txt

export HF_HUB_OFFLINE ?= 1

.PHONY: help demo test quick check image bench bench-detection docs install install-demo system clean

help:  ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | sort | expand -t 14

demo: install-demo  ## Watch the sidecar catch a real fine-tuning accident (DEMO="--scenario ... --once --json")
	@$(BIN)/rag-drift demo $(DEMO)

test: install system  ## All tests, on two processors
	$(BIN)/python -m pytest $(TWO)

quick: install  ## The tests without the slow ones, on the embedded Redis only
	$(BIN)/python -m pytest -m "not slow and not nightly" -k "not redis-7-system" -q $(TWO)

check: install  ## Lint, types, import layers, documentation tables
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python docs/tables.py --check
	$(BIN)/python helm/schema.py --check
	$(BIN)/python -m dashboards.generate --check

# Rootless tools and Docker build for themselves; where there is none, buildah does it on a base from Debian's packages.
image: install-demo  ## Build the container images and try them (IMAGE="--target slim"; CONTAINER_TOOL, TORCH_INDEX)
	@if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null \
	  && ! { docker images || podman images || buildah images; } >/dev/null 2>&1; then \
	  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
	    buildah debootstrap >/dev/null; fi
	@TORCH_INDEX="$(TORCH_INDEX)" $(BIN)/python -m tools.image $(IMAGE)

bench-detection: install  ## All acceptance simulations, and the detector beside other tools (about an hour)
	$(BIN)/python -m pytest -m nightly
	benchmarks/detection/setup_peers.sh
	$(BIN)/python benchmarks/detection/run.py
	$(BIN)/python -m benchmarks.attribution

bench: install  ## The benchmarks; each prints ratios measured in one run
	$(BIN)/python benchmarks/intake.py
	$(BIN)/python benchmarks/overlap.py
	$(BIN)/python benchmarks/replay.py
	$(BIN)/python benchmarks/footprint.py
	$(BIN)/python benchmarks/canaries.py
	$(BIN)/python -m benchmarks.scrape

docs: install  ## Write what is generated: tables of the documentation, Grafana's dashboards, the chart's schema
	$(BIN)/python docs/tables.py
	$(BIN)/python -m dashboards.generate
	$(BIN)/python helm/schema.py

install: $(VENV)/.installed-test  ## The environment for development

install-demo: $(VENV)/.installed-demo

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "Python 3.11 or newer is needed; set PYTHON=..." >&2; exit 2; }
	@$(PYTHON) -m venv $(VENV) 2>/dev/null || { rm -rf $(VENV); \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    apt-get update -qq && apt-get install -y -qq --no-install-recommends python3-venv && $(PYTHON) -m venv $(VENV); \
	  else echo "python3 -m venv does not work here: install the package python3-venv" >&2; exit 2; fi; }

# torch by itself and first, so that nothing else chooses its build; torch's own dependencies come from the usual index.
$(VENV)/.installed-demo: $(BIN)/python pyproject.toml constraints.txt
	@echo "setting up $(VENV) (torch and sentence-transformers: some minutes the first time)"
	@$(PIP) --no-deps $(TORCH_FLAGS) torch
	@$(PIP) -e '.[demo]'
	@touch $@

$(VENV)/.installed-test: $(VENV)/.installed-demo
	@$(PIP) -e '.[demo,test]'
	@touch $@

system:  ## Debian packages that the tests run for real (only as root, only where apt is)
	@if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null \
	  && ! { command -v redis-server && command -v promtool && command -v amtool; } >/dev/null; then \
	  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
	    redis-server prometheus prometheus-alertmanager >/dev/null; fi

clean:  ## Remove what was built and installed here
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
