# One command each; nothing else is needed on a bare Debian or Ubuntu with Python 3.11+, git and make.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
STAMP := $(VENV)/.installed
DEV := $(VENV)/.installed-dev
ARGS ?=
ONLY ?=

.PHONY: up test bench test-docker test-images test-compose test-cluster lint lock clean screenshots

up: $(STAMP)
	@exec $(VENV)/bin/vitrine up $(ARGS)

test: $(DEV)
	@$(VENV)/bin/python -m tests.run $(ARGS)

lint: $(DEV)
	@$(VENV)/bin/python -m tests.run --lint-only

bench: $(DEV)
	@$(VENV)/bin/python -m tests.bench $(if $(ONLY),--only $(ONLY)) $(ARGS)

# Starts a Docker engine of its own (needs root, dockerd, runc and nft).
test-docker: $(DEV)
	@$(VENV)/bin/python -m pytest -q -m docker $(ARGS)

# Every base image that Debian has the Python for, on a Docker engine of its own (needs root, dockerd, mmdebstrap, a Debian mirror).
test-images: $(DEV)
	@$(VENV)/bin/python -m pytest -q -m images tests/e2e/docker/test_base_images.py $(ARGS)

# The production services from Debian packages, on a Docker engine of its own (needs root, dockerd, docker-compose, mmdebstrap).
test-compose: $(DEV)
	@$(VENV)/bin/python -m pytest -q -m compose tests/e2e/compose $(ARGS)

test-cluster: $(DEV)
	@test -n "$$KUBECONFIG" || { echo "test-cluster: set KUBECONFIG to a cluster and VITRINE_REGISTRY to a registry its nodes can pull from" >&2; exit 1; }
	@$(VENV)/bin/python -m pytest tests/cluster -m cluster $(ARGS)

screenshots: $(DEV)
	@$(VENV)/bin/python -m tests.e2e.web.screenshots $(ARGS)

# The installer says what it does while it does it.
$(STAMP): pyproject.toml requirements.lock infra/install.sh
	@PYTHON="$(PYTHON)" bash infra/install.sh $(VENV) requirements.lock
	@touch $@

$(DEV): $(STAMP) requirements-dev.lock
	@PYTHON="$(PYTHON)" bash infra/install.sh $(VENV) requirements.lock requirements-dev.lock
	@touch $@

# Pinned with hashes, without the address of any index: a mirror works as well as the public one.
lock: $(STAMP)
	$(VENV)/bin/uv pip compile -q pyproject.toml -o requirements.lock --generate-hashes --no-header --no-emit-index-url --no-annotate --universal --python-version 3.11
	$(VENV)/bin/uv pip compile -q --group dev pyproject.toml -c requirements.lock -o requirements-dev.lock --generate-hashes --no-header --no-emit-index-url --no-annotate --universal --python-version 3.11

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .import_linter_cache
