# Everything that is needed is set up by what needs it: on a fresh machine `make demo` or `make test` is enough.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
NEWEST := $(VENV)/newest
# Tests wait more than they compute, so there are more workers than cores.
WORKERS ?= 4
PARALLEL := -n $(WORKERS) --dist loadgroup --no-loadscope-reorder --durations=10

.DEFAULT_GOAL := help
.PHONY: help demo test newest test-newest install bench bench-quick dist lint format audit requirements clean

help:
	@echo 'make demo          serve metrics of a simulated cloud on 127.0.0.1:19180'
	@echo 'make test          run all tests'
	@echo 'make test-newest   run all tests on the newest Python (needs root and mmdebstrap)'
	@echo 'make install       the virtual environment with $(BIN)/heat-deployment-exporter in it'
	@echo 'make bench         measure everything side by side with its peers (bench-quick: in under two minutes)'
	@echo 'make dist          wheel, sdist and bill of materials, the same on every machine, in dist/'
	@echo 'make lint          formatter, linter, type checker, import contract'
	@echo 'make format        let the formatter and the linter mend what they can'
	@echo 'make audit         ask for known vulnerabilities of everything that is pinned (needs the network)'
	@echo 'make requirements  pin the newest versions that pyproject.toml allows (needs uv)'

# A marker file for each layer, so that only what changed is installed again.
$(VENV)/.created:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo '$(PYTHON) is older than 3.11: name a newer one with make PYTHON=python3.x'; exit 1; }
	@$(PYTHON) -m venv $(VENV) || \
	  { rm -rf $(VENV); echo 'Python has no venv module here; on Debian: apt install python3-venv'; exit 1; }
	@touch $@

$(VENV)/.runtime: $(VENV)/.created requirements/runtime.txt requirements/build.txt pyproject.toml
	@echo 'installing the exporter into $(VENV) …'
	@$(BIN)/python -m pip install -q --disable-pip-version-check --require-hashes -r requirements/runtime.txt -r requirements/build.txt
	@$(BIN)/python -m pip install -q --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/.test: $(VENV)/.runtime requirements/test.txt requirements/fuzz.txt
	@echo 'installing what the tests need …'
	@$(BIN)/python -m pip install -q --disable-pip-version-check --require-hashes -r requirements/test.txt -r requirements/fuzz.txt
	@touch $@

$(VENV)/.bench: $(VENV)/.runtime requirements/bench.txt
	@echo 'installing what is measured beside it …'
	@$(BIN)/python -m pip install -q --disable-pip-version-check --require-hashes -r requirements/bench.txt
	@touch $@

$(VENV)/.lint: $(VENV)/.test requirements/lint.txt
	@echo 'installing the linters …'
	@$(BIN)/python -m pip install -q --disable-pip-version-check --require-hashes -r requirements/lint.txt
	@touch $@

install: $(VENV)/.runtime

demo: $(VENV)/.runtime
	@exec $(BIN)/heat-deployment-exporter demo

test: $(VENV)/.test
	@exec $(BIN)/python -m pytest $(PARALLEL) $(TESTS)

# Another Python is another environment, of the same layers.
newest: $(VENV)/.test
	@python=$$($(BIN)/python -m tests.programs.newest_python) || exit; \
	[ "$$(readlink -f $(NEWEST)/bin/python)" = "$$python" ] || rm -rf $(NEWEST); \
	exec $(MAKE) -s --no-print-directory PYTHON="$$python" VENV=$(NEWEST) $(NEWEST)/.lint

test-newest: newest
	@exec $(NEWEST)/bin/python -m pytest $(PARALLEL) -o cache_dir=$(NEWEST)/.pytest_cache $(TESTS)

# Where we may install programs we do; elsewhere the suite says what it leaves out.
bench bench-quick: $(VENV)/.bench
	@missing=$$($(BIN)/python -m bench.peers); \
	if [ -n "$$missing" ] && [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  apt-get update -q >/dev/null; \
	  DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 apt-get install -q -y --no-install-recommends $$missing >/dev/null || true; \
	fi
	@exec $(BIN)/python -m bench $(if $(filter bench-quick,$@),--quick)

# Files bear the date of the commit, whenever and wherever they are built.
dist: $(VENV)/.runtime
	rm -rf dist
	export SOURCE_DATE_EPOCH="$${SOURCE_DATE_EPOCH:-$$(git log -1 --format=%ct 2>/dev/null || echo 1580601600)}" && \
	  $(BIN)/python -m hatchling build -d dist && \
	  $(BIN)/python -m release.sbom >dist/heat-deployment-exporter.cdx.json
	cd dist && sha256sum -- * >SHA256SUMS

lint: $(VENV)/.lint
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/zizmor --offline --no-progress --quiet --pedantic .github/workflows
	$(BIN)/hadolint Dockerfile

format: $(VENV)/.lint
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# With extras: pip takes a pin without them for another requirement as soon as a newer version is published.
# Strictly: what a service does not know is a failure, not a package without vulnerabilities.
AUDIT_SERVICE := osv
audit: $(VENV)/.created requirements/audit.txt
	@$(BIN)/python -m venv $(VENV)/audit
	@$(VENV)/audit/bin/python -m pip install -q --disable-pip-version-check --require-hashes -r requirements/audit.txt
	@failed=; for file in requirements/*.txt; do echo "$$file"; \
	  $(VENV)/audit/bin/pip-audit --strict --progress-spinner=off --disable-pip --require-hashes \
	    --vulnerability-service=$(AUDIT_SERVICE) -r "$$file" || failed=1; \
	done; test -z "$$failed"

COMPILE := uv pip compile -q --generate-hashes --no-header --no-emit-index-url --universal --python-version 3.11 --no-strip-extras --upgrade
requirements:
	$(COMPILE) pyproject.toml -o requirements/runtime.txt
	$(COMPILE) --extra test -c requirements/runtime.txt pyproject.toml -o requirements/test.txt
	$(COMPILE) --extra test --extra lint -c requirements/test.txt pyproject.toml -o requirements/lint.txt
	$(COMPILE) --extra bench -c requirements/test.txt pyproject.toml -o requirements/bench.txt
	$(COMPILE) requirements/build.in -o requirements/build.txt
	$(COMPILE) requirements/audit.in -o requirements/audit.txt
	$(COMPILE) requirements/fuzz.in -o requirements/fuzz.txt

clean:
	rm -rf $(VENV) .cache .mypy_cache .pytest_cache .ruff_cache .hypothesis
