# Two commands do all the set-up on a fresh machine: `make quickstart` runs a Study to its end, `make test` passes the tests.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt
comma := ,
PACKAGING := pyproject.toml sdk/pyproject.toml constraints.txt

.PHONY: help
help:  ## Show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 22

.PHONY: quickstart
quickstart: $(VENV)/.base  ## Set up, and run a Study of 40 real trainings to its end
	@echo "== Running examples/digits-svm: 40 support vector machines on images of digits, several at once"
	$(BIN)/hpo run examples/digits-svm/study.yaml --fresh --results hpo-runs/digits-svm

.PHONY: test
test: lint docs unit control-plane node  ## Set up, and run all checks and tests

.PHONY: lint
lint: $(VENV)/.test  ## Style, layers and types
	@echo "== Lint: ruff, import-linter, mypy"
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/python -m hpo_operator.crds --check
	$(BIN)/python -m helm.generate --check
	$(BIN)/mypy

# Not --quiet, which would hide the warnings from --strict as well.
.PHONY: docs
docs: $(VENV)/.docs  ## Build the site of the documentation, in build/site; a link or a heading that is not there is an error
	@echo "== Documentation"
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	@echo "== build/site/index.html"

.PHONY: unit
unit: $(VENV)/.test $(VENV)/.s3  ## Unit tests: no cluster
	@echo "== Unit tests"
	$(BIN)/python -m pytest tests/unit -m "not torch and not gpu" --numprocesses logical
	$(MAKE) --no-print-directory unit-torch

.PHONY: unit-torch
unit-torch: $(VENV)/.torch  ## Those of the algorithms on torch, which is installed for them: six gigabytes
	@echo "== Unit tests of the algorithms on torch"
	$(BIN)/python -m pytest tests/unit -m torch --numprocesses logical

.PHONY: gpu
gpu: $(VENV)/.torch  ## Those that train on a GPU, where there is one: some three minutes; not part of `make test`
	@echo "== Tests on a GPU"
	$(BIN)/python -m pytest tests/unit -m gpu

# Outside CI a machine that cannot run a control plane or a node skips these tests and says so; in CI that is a failure.
define unless_missing
missing=""; command -v go >/dev/null || missing="Go is missing: install Go 1.26 or newer"; \
[ -n "$$missing" ] || unshare --net --mount --pid --fork true 2>/dev/null || missing="namespaces cannot be made: run as root"; \
[ -n "$$missing" ] || [ "$(1)" != node ] || { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; } || missing="a node needs root and Debian's packages"; \
if [ -n "$$missing" ] && [ -n "$${CI:-}" ]; then echo "$$missing"; exit 1; fi; \
if [ -n "$$missing" ]; then echo "SKIPPED $(2): $$missing"; exit 0; fi
endef

# Tests on a control plane wait most of their time: two at once, each in namespaces of its own.
ENCLOSED := $(BIN)/python -m tests.testbed.enclose -- $(BIN)/python

.PHONY: control-plane
control-plane: $(VENV)/.test  ## Tests on a real control plane: needs Go to build it, and namespaces to enclose it
	@echo "== Tests on a real control plane (its programs are built at first: some twenty minutes)"
	@$(call unless_missing,namespaces,tests/control_plane and tests/testbed); \
	$(BIN)/python -m tests.testbed build control-plane metrics chart queues && \
	$(BIN)/python -m pytest tests/testbed tests/control_plane -m "not cluster" --dist loadfile --tx '2*popen//python=$(ENCLOSED)'

.PHONY: node
node: $(VENV)/.test  ## Tests on a real node with real pods: needs root and Debian's packages too
	@echo "== Tests on a real node (its programs and images are built at first: some ten minutes)"
	@$(call unless_missing,node,tests/cluster); \
	$(BIN)/python -m tests.testbed build control-plane cluster chart queues python torch && \
	$(BIN)/python -m tests.cluster.images && \
	$(BIN)/python -m tests.testbed.enclose -- $(BIN)/python -m pytest \
		tests/testbed/test_namespaces.py tests/testbed/test_cluster.py tests/cluster -m cluster

.PHONY: cluster
cluster: $(VENV)/.test  ## A shell with kubectl beside a real control plane with simulated GPU nodes and the operator
	$(BIN)/python -m tests.testbed build
	$(BIN)/python -m tests.testbed shell

.PHONY: constraints
constraints:  ## Resolve the newest versions anew into constraints.txt, and what the extras torch and docs add into files beside it
	rm -rf build/constraints && $(PYTHON) -m venv build/constraints
	build/constraints/bin/pip install --quiet setuptools ./sdk '.[operator,test]'
	{ head -2 constraints.txt; build/constraints/bin/pip freeze --all | grep -vE '^(pip|hpo-operator)'; } > build/constraints.txt
	mv build/constraints.txt constraints.txt
	for extra in torch docs; do \
		rm -rf build/constraints && $(PYTHON) -m venv build/constraints; \
		build/constraints/bin/pip install --quiet --constraint constraints.txt setuptools ./sdk ".[$$extra]"; \
		{ head -2 constraints-$$extra.txt; build/constraints/bin/pip freeze --all | grep -vE '^(pip|hpo-operator)' | grep -vxFf constraints.txt; } > build/constraints.txt; \
		mv build/constraints.txt constraints-$$extra.txt; \
	done

# What an image holds is read from an environment into which the same is installed: $(1) names it, $(2) is what its Dockerfile installs.
define write-sbom
rm -rf build/contents && $(PYTHON) -m venv --without-pip build/contents
build/sbom/bin/pip --disable-pip-version-check --python build/contents install --quiet --constraint constraints.txt $(2)
build/sbom/bin/cyclonedx-py environment --pyproject $(3) --output-reproducible -o build/$(1).cdx.json build/contents
@echo "== build/$(1).cdx.json: $$(grep -c '"purl"' build/$(1).cdx.json) components"
endef

.PHONY: sbom
sbom: build/sbom/.done  ## Write build/*.cdx.json: what the operator's and the trial image hold besides Python, with versions and licences
	$(call write-sbom,hpo-operator,'./sdk[object-store]' '.[operator]',pyproject.toml)
	$(call write-sbom,hpo-operator-trial,'./sdk[object-store]' scikit-learn,sdk/pyproject.toml)

.PHONY: sbom-torch
sbom-torch: build/sbom/.done  ## The same of the operator's image with torch: reads PyTorch's index, as its Dockerfile does
	$(call write-sbom,hpo-operator-torch,--constraint constraints-torch.txt --extra-index-url https://download.pytorch.org/whl/cpu './sdk[object-store]' '.[operator$(comma)torch]',pyproject.toml)

build/sbom/.done: constraints.txt
	rm -rf build/sbom && $(PYTHON) -m venv build/sbom
	build/sbom/bin/pip --disable-pip-version-check install --quiet --constraint constraints.txt 'cyclonedx-bom==7.5.0' setuptools wheel
	@touch $@

.PHONY: clean
clean:  ## Remove what the other targets have made, but no results
	rm -rf $(VENV) build *.egg-info sdk/*.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(VENV)/bin/python:
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) is missing. Install Python 3.11 or newer, or name one: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "$$($(PYTHON) --version) is too old: 3.11 or newer is needed. Name one: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@echo "== Making a virtual environment in $(VENV) with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); echo "python's venv module is missing. On Debian and Ubuntu: apt-get install python3-venv"; exit 1; }

$(VENV)/.base: $(VENV)/bin/python $(PACKAGING)
	@echo "== Installing hpo-operator and what it needs (numpy, scipy, scikit-learn …): about a minute"
	@$(PIP) setuptools wheel || { echo "pip could not install: is a package index reachable? See 'pip config list'."; exit 1; }
	$(PIP) --no-build-isolation --editable ./sdk --editable .
	@touch $@

$(VENV)/.test: $(VENV)/.base
	@echo "== Installing what the tests need"
	$(PIP) --no-build-isolation --editable ./sdk --editable '.[operator,test]'
	@touch $@

# A server that speaks as S3 does. What it needs and what the operator needs exclude each other.
$(VENV)/.s3: $(VENV)/bin/python tests/s3.txt
	@echo "== Installing an S3 server for the tests"
	@$(PYTHON) -m venv $(VENV)/s3
	@$(VENV)/s3/bin/python -m pip --disable-pip-version-check install --quiet --requirement tests/s3.txt
	@touch $@

$(VENV)/.torch: $(VENV)/.test constraints-torch.txt
	@echo "== Installing torch and botorch: three gigabytes to fetch, six on the disk, some five minutes"
	$(PIP) --constraint constraints-torch.txt --no-build-isolation --editable ./sdk --editable '.[torch]'
	@touch $@

$(VENV)/.docs: $(VENV)/.base constraints-docs.txt
	@echo "== Installing MkDocs"
	$(PIP) --constraint constraints-docs.txt --no-build-isolation --editable ./sdk --editable '.[docs]'
	@touch $@
