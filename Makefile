# make book   run every chapter and build the pages      make test   everything that CI checks
# Both create .venv and install what they need by themselves. `make help` says more.

SHELL   := /bin/bash
PROFILE ?= smoke
VENV    := .venv
PY      := $(VENV)/bin/python
READY   := $(VENV)/.ready

# Freed blocks stay with the process: torch asks for the same large buffers over and over, and the
# page faults of returning them to the system cost more than the memory (glibc; ignored elsewhere).
export MALLOC_MMAP_THRESHOLD_ := 4294967296
export MALLOC_TRIM_THRESHOLD_ := 4294967296
export PYTHONUTF8 := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help book browser pdf test fuzz test-oldest test-newest coverage mutation sdist lint types imports unit install clean FORCE

help:
	@echo "make book     run every chapter and build the pages   (PROFILE=smoke|cpu|full, FRESH=1 runs all)"
	@echo "make pdf      the built pages as one file, _build/book.pdf (needs Chromium)"
	@echo "make browser  look at every built page in a headless Chromium (after make book)"
	@echo "make test     lint, types, import contract, unit tests, every chapter"
	@echo "make fuzz     read thousands of hostile files (FUZZ='--cases 20000 --seed 7'; Linux)"
	@echo "make test-oldest, test-newest   the quick tests with the lower bounds of pyproject.toml, and with"
	@echo "              the newest releases (PYTHON=python3.10; UV_TORCH_BACKEND=cpu spares 6 GB)"
	@echo "make coverage lines that tests reach in the rooms that must have 95 %   make mutation  mutants"
	@echo "make sdist    dist/: the source archive, whose tests run"
	@echo "make install  only create .venv and install"
	@echo "make clean    remove what was built (.venv stays)"
	@echo "parts of make test: lint types imports unit (PYTEST='-k name' passes options on)"
	@echo
	@echo "PYTHON=/path/to/python3 chooses the Python (3.10 or newer). On Linux without a GPU, pip takes"
	@echo "a much smaller torch if PIP_EXTRA_INDEX_URL is the address of PyTorch's CPU wheels"
	@echo "(the install page of pytorch.org shows it under \"CPU\")."

book: $(READY)
	@$(PY) book/_press/pages.py --profile $(PROFILE) $(if $(FRESH),--fresh)

pdf: $(READY)
	@$(PY) book/_press/pdf.py

# Needs a Chromium, and the pages of `make book`.
browser: $(READY)
	@$(PY) book/_press/browser.py

test: lint types imports unit
	@echo "make test: all of lint, types, imports and unit passed"

lint: $(READY)
	$(PY) -m ruff check .

types: $(READY)
	$(PY) -m mypy

# import-linter has no `python -m`; its script would break where the folder has been moved.
imports: $(READY)
	$(PY) -c "import sys; from importlinter.cli import lint_imports_command as c; sys.exit(c())"

# One thread a process, two processes: the chapters are run as they are for the book.
unit: $(READY)
	OMP_NUM_THREADS=1 $(PY) -m pytest -n 2 --dist worksteal $(PYTEST)

# Not part of `make test`, where tests/test_fuzz.py reads a handful.
fuzz: $(READY)
	$(PY) tests/fuzz/run.py $(FUZZ)

# The lower bounds of pyproject.toml on the oldest Python, the newest releases on the newest: uv
# chooses the versions, in a folder of its own. AGAINST='tests/defenses' runs other tests.
AGAINST ?= $(filter-out tests/test_fuzz.py tests/test_packaging.py,$(wildcard tests/test_*.py)) tests/data
test-oldest: BOUNDS := --resolution lowest-direct
test-oldest: OTHER  := $(or $(PYTHON),3.10)
test-newest: OTHER  := $(or $(PYTHON),3.13)
test-oldest test-newest: test-%: maintain
	$(PY) -m uv venv -q --clear --python $(OTHER) .venv-$*
	$(PY) -m uv pip install -q --python .venv-$* $(BOUNDS) -e ".[test]"
	$(PY) -m uv pip list -q --python .venv-$* | grep -E "^(torch|torchvision|numpy|pillow|safetensors|scikit-learn) "
	OMP_NUM_THREADS=1 .venv-$*/bin/python -m pytest -q $(AGAINST) $(PYTEST)

# Rooms of which tests must reach 95 % of the lines, each.
ROOMS := sets solvers hypergrad second_derivatives minimax ibau checkpoints torch_files data
coverage: maintain
	OMP_NUM_THREADS=1 $(PY) -m coverage run -m pytest -q $(wildcard $(foreach room,sets solvers \
		hypergrad second_derivatives minimax aimed_union scattering checkpoints files,tests/test_$(room).py) \
		tests/defenses/test_ibau.py tests/defenses/test_released.py) tests/data $(PYTEST)
	@for room in $(ROOMS); do \
		$(PY) -m coverage report --fail-under=95 --include="ibau_lite/$$room.py,ibau_lite/$$room/*" || exit 1; \
	done

# Hours. The folder mutants/ keeps what is done; PYTEST and the rest are in pyproject.toml.
# MUTANTS='ibau_lite.sets*' takes some. tests/mutation.md explains those that survive.
mutation: maintain
	OMP_NUM_THREADS=1 $(PY) -m mutmut run --max-children 2 $(MUTANTS)
	$(PY) -m mutmut results

sdist: $(READY)
	$(PY) -c "from setuptools import build_meta; print('dist/' + build_meta.build_sdist('dist'))"

.PHONY: maintain
maintain: $(READY)
	@$(PY) -m pip install -q --no-build-isolation -e ".[maintain]" -c constraints.txt

install: $(READY)

clean:
	rm -rf _build dist mutants .coverage .venv-oldest .venv-newest .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .benchmarks

# --- the environment ---------------------------------------------------------------------------
# .venv is complete when $(READY) is newer than the two files below and was written in this folder:
# a moved or copied checkout is installed anew, which needs no network.

ifneq ($(shell cat $(READY) 2>/dev/null),$(CURDIR))
$(READY): FORCE
endif

# The first Python of at least 3.10 that can make an environment.
define CHOOSE_PYTHON
for python in $(or $(PYTHON),python3 python python3.13 python3.12 python3.11 python3.10); do \
	command -v "$$python" >/dev/null 2>&1 || continue; \
	found="$$found $$python ($$("$$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>&1 | tail -n 1))"; \
	"$$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null || continue; \
	chosen="$$python"; \
	"$$python" -c 'import venv, ensurepip' 2>/dev/null && break; \
	without="$$without $$python"; chosen=; \
done; \
if [ -z "$$chosen" ]; then \
	if [ -n "$$without" ]; then \
		echo "Python was found ($$without ), but its venv module is missing or incomplete." >&2; \
		echo "Install it (Debian, Ubuntu: apt install python3-venv) and run make again." >&2; \
	else \
		echo "Python 3.10 or newer is needed; found:$${found:- none}." >&2; \
		echo "Install one, or name it: make book PYTHON=/path/to/python3.11" >&2; \
	fi; \
	exit 1; \
fi
endef

$(READY): pyproject.toml constraints.txt
	@$(PY) -c 'import sys, pip; sys.exit(sys.version_info < (3, 10))' 2>/dev/null || { \
		$(CHOOSE_PYTHON); \
		echo "creating $(VENV) with $$chosen"; \
		rm -rf $(VENV) && "$$chosen" -m venv $(VENV); }
	@echo "installing torch (the largest part: some minutes the first time)"
	@$(PY) -m pip install -q -c constraints.txt torch setuptools wheel
	@echo "installing the library, the book's tools and the tests' tools"
	@$(PY) -m pip install -q -c constraints.txt --no-build-isolation -e ".[book,test]"
	@printf '%s' "$(CURDIR)" > $@
