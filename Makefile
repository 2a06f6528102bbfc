# Every command of the working tree. `make` or `make help` lists them.
# Nothing here needs root, a container engine or a cluster; real parts are found or built by tools.parts.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

# `python3` if it is at least 3.11, else the newest other one; override with `make PYTHON=/path/to/python3.12 ...`.
PYTHON ?= $(firstword $(foreach p,python3 python3.13 python3.12 python3.11,$(if $(shell $(p) -c 'import sys; print(sys.version_info >= (3, 11) or "")' 2>/dev/null),$(p))))
# Where it is installed; another name is for another Python beside it.
export CELLWARD_VENV ?= .venv
VENV := $(CELLWARD_VENV)/bin
PY := $(VENV)/python
CODE := cellward hub agent cli auditverify tools

# Whoever wants no bytecode written (images often do) would compile every module in each of the many processes here.
unexport PYTHONDONTWRITEBYTECODE

# Test processes; twice the two cores that are enough, because half of their time they wait for other programs.
WORKERS ?= 4
# Further arguments for pytest, e.g. make test ARGS="tests/unit -k floors".
ARGS ?=

.PHONY: help
help: ## List the commands
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  \033[1m%-16s\033[0m %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: setup
setup: ## Make .venv with every dependency at its pinned hash (skipped when up to date)
	@if [ -z "$(PYTHON)" ]; then echo "error: Python 3.11 or later is needed (on Debian or Ubuntu: apt-get install python3 python3-venv), or set PYTHON=..." >&2; exit 1; fi
	@$(PYTHON) tools/devenv.py

.PHONY: parts
parts: setup ## Find or build every real part (once; about 16 minutes on two cores)
	@$(PY) -m tools.parts ensure >/dev/null

# When this command began, before .venv is made, so that the demo tells the whole time; `:=` because a plain `=` would
# be read anew by each recipe.
demo: export CELLWARD_STARTED := $(shell date +%s.%N)

.PHONY: demo
demo: setup ## Two data planes, one hub, everything that must be refused; ONCE=1 ends by itself, NODES=real|simulated
	@ONCE="$(ONCE)" $(PY) -m tools.demo

.PHONY: test
test: parts ## Run every test, in random order, on real parts where they say so
	@echo "test: pytest on $(WORKERS) processes"
	@$(PY) -m pytest -n $(WORKERS) --dist loadgroup $(ARGS)

# The Pythons `make test-pythons` runs on; PYTHONS=ends takes the oldest and the newest.
PYTHONS ?= all
MINOR = $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])')

.PHONY: test-pythons
test-pythons: ## Run every test on each Python of this machine that pyproject.toml allows; PYTHONS=ends for two
	@for python in $$($(PYTHON) tools/pythons.py $(if $(filter ends,$(PYTHONS)),--ends)); do \
	  minor=$$($$python -c 'import sys; print("%d.%d" % sys.version_info[:2])'); \
	  venv=.venv-$$minor; [ "$$minor" != "$(MINOR)" ] || venv=.venv; \
	  echo "test-pythons: Python $$minor in $$venv"; \
	  $(MAKE) test PYTHON=$$python CELLWARD_VENV=$$venv; \
	done

.PHONY: soak
soak: parts ## Property tests with 10,000 examples (hubs that lie, the life of a cell, policies), a kill at every statement of the hub; 45 minutes
	@CELLWARD_SOAK_EXAMPLES=10000 $(PY) -m pytest -q -p no:randomly $(or $(ARGS),tests/hostile/lying_hub tests/integration/crash tests/unit/agent/cells/machine tests/unit/agent/link/listed tests/unit/agent/link/holding tests/integration/isolation)

.PHONY: e2e
e2e: parts ## End-to-end scenarios on real parts, one after the other (e2e/README.md)
	@$(PY) -m tools.stack.node.prepare
	@$(PY) -m tools.stack.node.lab $(PY) -m pytest $(or $(ARGS),e2e)

.PHONY: check
check: check-style check-types check-go check-imports check-protos check-generated check-policies ## Everything that needs no running part: style, types, imports, protos, policies
	@echo "check: all green"

.PHONY: check-style
check-style: setup
	@echo "check: style (ruff)"
	@$(VENV)/ruff check --quiet .
	@$(VENV)/ruff format --quiet --check . || { echo "run \`make format\`" >&2; exit 1; }

.PHONY: check-types
check-types: setup
	@echo "check: types (mypy, strict)"
	@$(VENV)/mypy --strict $(CODE) $(wildcard bench)

.PHONY: check-go
check-go: setup
	@echo "check: Go of the benchmark's load (gofmt, go vet; nothing where there is no Go)"
	@$(PY) -m bench.build --check

.PHONY: check-imports
check-imports: setup
	@echo "check: import directions (import-linter)"
	@$(VENV)/lint-imports --no-logo >.import-linter.log 2>&1 || { cat .import-linter.log >&2; rm -f .import-linter.log; exit 1; }
	@rm -f .import-linter.log

.PHONY: check-protos
check-protos: setup
	@echo "check: protos (buf lint, format, breaking)"
	@$(VENV)/buf lint
	@$(VENV)/buf format --diff --exit-code
	@$(VENV)/buf breaking --against protos/image.binpb

.PHONY: check-generated
check-generated: setup
	@echo "check: generated files are what their sources say"
	@$(PY) -m tools.parts ensure opa >/dev/null
	@$(PY) -m tools.generate --check

.PHONY: check-policies
check-policies: setup
	@echo "check: policies (opa fmt, check, test)"
	@$(PY) -m tools.parts ensure opa >/dev/null
	@$(PY) -m tools.policies

.PHONY: format
format: setup ## Rewrite Python, protos and Rego in the one style
	@$(VENV)/ruff check --quiet --fix . || true
	@$(VENV)/ruff format .
	@$(VENV)/buf format --write
	@$(PY) -m tools.parts ensure opa >/dev/null
	@$(PY) -m tools.policies --write

.PHONY: gen
gen: setup ## Regenerate stubs and reference files from their sources
	@$(PY) -m tools.parts ensure opa >/dev/null
	@$(PY) -m tools.generate

.PHONY: image
image: setup ## Take today's protos as what later ones must stay compatible with (at a release)
	@$(VENV)/buf build -o protos/image.binpb
	@echo "image: protos/image.binpb is what \`make check\` compares against from now on"

.PHONY: images
images: setup ## OCI archives of hub and agent into dist/, without root, engine or registry; KEY=file.pem signs them
	@$(PY) -m tools.image build $(if $(KEY),--key $(KEY)) $(ARGS)

.PHONY: pin-images
pin-images: setup ## Pin the Debian packages of the images, and the digests of the Dockerfile's bases where a registry answers
	@$(PY) -m tools.image pin

.PHONY: lock
lock: setup ## Resolve the dependencies again and pin them by hash
	@for extra in hub agent cli dev; do \
	  echo "lock: requirements/$$extra.txt"; \
	  $(VENV)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-emit-index-url \
	    --extra $$extra pyproject.toml -o requirements/$$extra.txt; \
	done

.PHONY: bench
bench: parts ## Benchmarks: a table and JSON
	@$(PY) -m bench

.PHONY: clean
clean: ## Remove virtual environments and caches of this tree; the built parts in ~/.cache/cellward stay
	@rm -rf .venv .venv-* .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .cellward
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
	@echo "clean: done; \`rm -r ~/.cache/cellward\` removes the built parts too"
