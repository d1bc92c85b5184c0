# make setup | demo | up | test | lint | protos | lock | clean
SHELL := /bin/bash
.DEFAULT_GOAL := help

TORCH := 2.13.0
PYTHON ?= $(shell for p in python3.11 python3.12 python3; do \
	$$p -c 'import sys; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin

# make demo DATA=folder REGIME=zero|few|full N_AUG=40 OUT=out/demo DEMO_ARGS="..."
DATA ?=
REGIME ?= few
N_AUG ?= 40
OUT ?= out/demo
DEMO_ARGS ?=

.PHONY: help setup demo up test lint types imports protos-check unit contract integration protos lock format clean \
	images image-sizes pin-images test-docker kubernetes

help:
	@echo "make setup   virtual environment in .venv with everything"
	@echo "make demo    the whole job once; DATA=folder REGIME=zero|few|full N_AUG=40 OUT=out/demo"
	@echo "make up      start the platform on this machine and stay"
	@echo "make images  container images, and their sizes; make test-docker runs docker-compose.yml and tests it"
	@echo "make test    lint, types, import rules, unit, contract, integration and Kubernetes manifest tests"

setup: .venv/.ready

# Torch first and apart: pip's hash mode is all or nothing, and which build is right depends on the machine.
.venv/.ready: requirements.lock pyproject.toml
	@test -n "$(PYTHON)" || { echo "Python 3.11 or 3.12 is needed: make setup PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv .venv
	@if nvidia-smi >/dev/null 2>&1; then \
		echo "GPU found: torch $(TORCH) with CUDA"; $(BIN)/pip install -q torch==$(TORCH); \
	else \
		echo "no GPU: torch $(TORCH) for CPU"; \
		$(BIN)/pip install -q --no-deps "torch==$(TORCH)+cpu" 2>/dev/null || \
		$(BIN)/pip install -q --no-deps --index-url https://download.pytorch.org/whl/cpu "torch==$(TORCH)+cpu"; \
	fi
	$(BIN)/pip install -q --no-deps --require-hashes -r requirements.lock
	$(BIN)/pip install -q --no-deps --no-build-isolation -e .
	$(BIN)/python -m flawsmith.augmentation.warm_up
	$(BIN)/python -c 'import flawsmith.generation.kernels'
	@touch $@

demo: setup
	$(BIN)/flawsmith demo $(if $(DATA),--data $(DATA)) --regime $(REGIME) --n-aug $(N_AUG) --out $(OUT) $(DEMO_ARGS)

up: setup
	$(BIN)/flawsmith up

test: setup lint types imports protos-check unit contract kubernetes integration

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup
	$(BIN)/mypy

imports: setup
	$(BIN)/lint-imports

# Regenerating must change nothing, and the API follows buf's standard rules.
protos-check: setup
	@before=$$(find services/flawsmith -path '*/v1/*.py*' -not -name '*.pyc' | sort | xargs sha256sum); \
	protos/generate.sh $(BIN)/python; \
	after=$$(find services/flawsmith -path '*/v1/*.py*' -not -name '*.pyc' | sort | xargs sha256sum); \
	test "$$before" = "$$after" || { echo "generated code differs from protos/: commit what protos/generate.sh makes"; exit 1; }
	$(BIN)/buf lint build/protos.binpb --config buf.yaml

unit: setup
	$(BIN)/pytest tests/unit

contract: setup
	$(BIN)/pytest tests/contract

integration: setup
	$(BIN)/pytest tests/integration

# Renders deploy/kubernetes and checks it; no cluster. kubectl is this machine's own where its kustomize is 5 or newer.
kubernetes: setup build/bin/kubectl
	PATH="$(CURDIR)/build/bin:$$PATH" $(BIN)/pytest tests/kubernetes

build/bin/kubectl: | setup
	@mkdir -p $(@D)
	@if kubectl version --client 2>/dev/null | grep -qE 'Kustomize Version: v[5-9]'; then \
		ln -sf "$$(command -v kubectl)" $@; \
	else $(BIN)/python tests/kubernetes/fetch_kubectl.py $(@D); fi

# Images: `docker compose` where it is, else docker-compose 1.29. STAND_INS=1: bases and outside images from
# tests/docker, for machines without a container registry (see tests/docker/engine.sh).
COMPOSE = $(shell docker compose version >/dev/null 2>&1 && echo docker compose || echo docker-compose)
ifdef STAND_INS
COMPOSE_FILES = --env-file tests/docker/stand-ins.env --file docker-compose.yml --file tests/docker/stand-ins.yml
else
COMPOSE_FILES = --file docker-compose.yml
endif

images:
ifdef STAND_INS
	$(COMPOSE) $(COMPOSE_FILES) build tritonserver object-store postgres
endif
	$(COMPOSE) $(COMPOSE_FILES) build prepare triton-reconciler $(foreach s,assembly augmentation generation classification,$(s)-api $(s)-worker) triton
	@$(MAKE) -s image-sizes

image-sizes:
	@docker images --format '{{.Size}}\t{{.Repository}}:{{.Tag}}' | grep -P '\tflawsmith-(?!stand-in)' | sort -k2

# Needs a container registry: writes the digests of the outside images beside their tags.
pin-images:
	$(PYTHON) deploy/images/pin.py

test-docker: setup images
	STAND_INS=$(STAND_INS) $(BIN)/pytest tests/docker --durations=0

protos: setup
	protos/generate.sh $(BIN)/python

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The locks leave torch out; its CPU build must be found while resolving, so that no CUDA packages are locked.
TORCH_LINKS ?= https://download.pytorch.org/whl/cpu/torch/
COMPILE = UV_FIND_LINKS=$(TORCH_LINKS) $(BIN)/uv pip compile -q --universal --python-version 3.11 --generate-hashes \
	--no-emit-package torch --no-annotate --no-header --no-emit-index-url --no-emit-find-links \
	-c build/torch-constraint.txt
# What each image adds (see Dockerfile), in the versions of requirements.lock.
IMAGE_LOCKS := server augmentation classification classification-training generation
lock: setup
	$(BIN)/pip install -q uv
	@mkdir -p build
	printf 'torch==$(TORCH)+cpu\n' > build/torch-constraint.txt
	$(COMPILE) --extra local --extra test pyproject.toml -o requirements.lock
	for image in $(IMAGE_LOCKS); do \
		$(COMPILE) -c requirements.lock --extra $$image pyproject.toml -o deploy/images/$$image.lock || exit 1; \
	done
	$(COMPILE) -c requirements.lock --extra generation --extra classification pyproject.toml -o deploy/images/triton.lock
	echo torch | $(COMPILE) -c requirements.lock - -o deploy/images/torch.lock
	echo setuptools | $(COMPILE) -c requirements.lock - -o deploy/images/build.lock

clean:
	rm -rf out build .state
