# make report [PROFILE=mini] [JOBS=2] [OPTIONS=--no-appendices]   the report: reports/mini/report.html and report.pdf
# make test [WORKERS=0]                 ruff, all tests, the notebooks of the smoke profile
# make lab                              JupyterLab on the notebooks
# make clean                            forget every result; the environment stays
# Each sets up .venv by itself. EXTRAS=gpu,dev takes faiss for GPUs. Wheels in a folder that PIP_FIND_LINKS names (torch
# for CPUs, say) are taken first.

PROFILE ?= mini
JOBS ?= 2
WORKERS ?= 2
EXTRAS ?= cpu,dev
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
TORCH = $(shell grep -o 'torch==[0-9.]*' pyproject.toml)
FAIRSEQ = $(shell grep -o 'fairseq==[0-9.]*' pyproject.toml)

.PHONY: report test lab clean

report: .venv/installed
	$(BIN)/thesis run --profile $(PROFILE) --jobs $(JOBS) $(OPTIONS)

test: .venv/oracle
	$(BIN)/ruff check .
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests notebooks --nbval-lax --nbval-current-env --nbval-cell-timeout=600 \
	  -n $(WORKERS) --dist loadfile --no-loadscope-reorder

lab: .venv/installed
	$(BIN)/jupyter lab --notebook-dir=notebooks $(if $(filter 0,$(shell id -u)),--allow-root)

clean:
	rm -rf runs $(filter-out reports/README.md,$(wildcard reports/* reports/.[a-z]*))

# torch first: what pip finds installed it does not look for again among the CUDA builds
.venv/installed: pyproject.toml
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || \
	  { echo "Python 3.11 is needed; '$(PYTHON)' is not it. Name one: make PYTHON=/path/to/python3.11"; exit 1; }
	test -x $(BIN)/pip || "$(PYTHON)" -m venv .venv
	$(BIN)/pip install --quiet $(TORCH)
	$(BIN)/pip install --quiet -e '.[$(EXTRAS)]'
	touch $@

# The official VideoCLIP, for the tests that hold ours against it: no report needs it. A compiler builds it once.
.venv/oracle: .venv/installed
	$(BIN)/pip install --quiet -e '.[fairseq]'
	$(BIN)/pip install --quiet --no-deps $(FAIRSEQ)
	touch $@
