# Everything sets itself up: `make smoke` and `make test` need Python 3.11 with venv, nothing else.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
UV := $(BIN)/uv
LOCK := requirements/dev.txt
EXTRAS := --extra gs --extra heic --extra kaggle --extra s3 --extra sweep

.PHONY: setup smoke test test-slow test-containers mutants check format lock docs manifests

setup: $(READY)

$(READY): $(LOCK) requirements/uv.txt pyproject.toml
	@echo "setting up $(VENV): about 3 GB of pinned packages, one to four minutes"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] < (3, 11))' || { echo "Python 3.11 or newer is needed; set PYTHON=" >&2; exit 69; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/uv.txt
	@UV_PYTHON_DOWNLOADS=never $(UV) pip install --quiet --python $(BIN)/python --require-hashes --compile-bytecode -r $(LOCK)
	@# compat: by a path, so that `import twofold` works beside a folder of that name too
	@UV_PYTHON_DOWNLOADS=never $(UV) pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation -C editable_mode=compat -e .
	@touch $(READY)

smoke: setup
	@$(BIN)/twofold smoke

test: setup
	@$(BIN)/python -m pytest -n 2

test-slow: setup
	@$(BIN)/python -m pytest -m slow

# As root on Debian: installs podman and what else is missing from Debian's packages, and builds the cpu image.
test-containers: setup
	@tests/containers/setup.sh cpu
	@$(BIN)/python -m pytest -m containers tests/containers

# Plants mistakes in a copy of the source and looks whether the tests find them; docs/mutants.md.
mutants: setup
	@$(BIN)/python -m tests.mutants

check: setup
	@$(BIN)/hadolint Dockerfile
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

format: setup
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

# The lock files name no index: whoever installs uses their own.
lock: setup
	@for extra in dev cpu gpu; do \
		case $$extra in dev) more="requirements/dev.in --extra cpu $(EXTRAS)";; cpu) more="--extra cpu $(EXTRAS)";; gpu) more="--extra gpu $(EXTRAS)";; esac; \
		$(UV) pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate --no-header \
			pyproject.toml $$more -o requirements/$$extra.txt || exit 1; \
	done
	@$(UV) pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate --no-header requirements/image.in -o requirements/image.txt
	@echo "uv==0.13.9" | $(UV) pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate --no-header - -o requirements/uv.txt

docs: setup
	@$(BIN)/python docs/generate.py

# Needs kubectl, but no cluster.
manifests:
	@k8s/render.sh
