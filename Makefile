# make help lists the targets. Everything runs in .venv, which the Makefile makes itself.

PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
RUN := $(BIN)/python -m stts_lightning

# Variables of the user, each with what it sets.
PRUNE ?=
METHODS ?=
SEEDS ?=
DATA ?=
DOMAIN ?=
EVAL_DATA ?=
BACKBONE ?=
QUICK ?=
TRAINER ?=
METHOD ?=
MODEL ?=
ROUNDS ?=
ONLY ?=
NAME ?=
MEASURED ?=
VIDEO ?=
A ?=
B ?=
ARGS ?=

COMMON := $(if $(BACKBONE),backbone=$(BACKBONE)) \
          $(if $(TRAINER),trainer=$(TRAINER)) \
          $(if $(DOMAIN),domain=$(DOMAIN)) \
          $(if $(DATA),data=files 'data.train=$(DATA)') \
          $(if $(EVAL_DATA),'data.eval=$(EVAL_DATA)')
SWEEP := $(if $(PRUNE),'sweep.percents=[$(PRUNE)]') $(if $(METHODS),'sweep.methods=[$(METHODS)]') \
         $(if $(SEEDS),'sweep.seeds=[$(SEEDS)]')
SMALL := $(filter-out 0,$(QUICK))

.DEFAULT_GOAL := help
.PHONY: help setup sweep experiment tables compare report train eval bench plan dashboard test test-slow lint clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 22
	@echo
	@echo "  PRUNE=30,40,50  METHODS=stts,random,heuristic  SEEDS=0,1  DATA=path/to/qa.jsonl  EVAL_DATA=..."
	@echo "  NAME=pruning_strength|methods|test_time_scaling|image_results|tome|train_throughput|"
	@echo "       inference_throughput|degradation|layer_depth|what_is_pruned|saliency  VIDEO=clip.mp4"
	@echo "  DOMAIN=main|flicker|strobe|decoy|camera|mixed"
	@echo "  BACKBONE=tiny|molmo2_4b  TRAINER=auto|cpu|h100x8_zero2|...  QUICK=1  ARGS='section.key=value ...'"

setup: $(STAMP) ## make the virtual environment and install everything

$(STAMP): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -e '.[dev]'
	@touch $@

sweep: setup ## train and compare methods: make sweep PRUNE=30,40,50
	$(RUN) sweep --experiment $(if $(SMALL),quick,sweep) $(COMMON) $(SWEEP) $(ARGS)

experiment: setup ## one of the paper's tables or figures: make experiment NAME=methods
	$(RUN) experiment $(NAME) $(if $(SMALL),size=quick) $(COMMON) $(SWEEP) \
		$(if $(VIDEO),'experiment.video=$(VIDEO)') $(ARGS)

tables: setup ## what was measured of the learned scorer, as tables: make tables [MEASURED=its.csv]
	$(RUN) tables $(or $(MEASURED),experiments/saliency/measured.csv)

compare: setup ## the paired difference of two runs on the same questions: make compare A=run B=run
	$(RUN) compare $(A) $(B)

report: setup ## everything in MLflow as one page, the paper's cells beside ours: outputs/report.html
	$(RUN) report $(COMMON) $(ARGS)

train: setup ## train one model: make train METHOD=stts PRUNE=50
	$(RUN) train $(COMMON) $(if $(METHOD),method=$(METHOD)) $(if $(PRUNE),prune.percent=$(PRUNE)) $(ARGS)

eval: setup ## evaluate a model folder: make eval MODEL=outputs/.../model [PRUNE=70]
	$(RUN) eval $(MODEL) $(if $(PRUNE),--percent $(PRUNE)) $(COMMON) $(ARGS)

bench: setup ## measure speed and memory on this machine: make bench [ROUNDS=5] [ONLY=train,prefill]
	$(RUN) bench $(if $(ROUNDS),--rounds $(ROUNDS)) $(if $(ONLY),--only $(ONLY)) $(ARGS)

plan: setup ## memory and hours of a run on GPUs that are not here: make plan TRAINER=h100x8_zero2
	$(RUN) plan trainer=$(or $(TRAINER),h100x8_zero2) backbone=$(or $(BACKBONE),molmo2_4b) \
		$(if $(METHOD),method=$(METHOD)) $(if $(PRUNE),prune.percent=$(PRUNE)) $(ARGS)

dashboard: setup ## open MLflow on what has been run
	$(BIN)/mlflow ui --backend-store-uri sqlite:///outputs/mlflow.db --port 5000

test: setup ## run the tests, about nine minutes on two cores
	$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder $(ARGS)

test-slow: setup ## run the tests that take minutes
	$(BIN)/python -m pytest -m slow $(ARGS)

lint: setup ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean: ## remove the virtual environment; outputs/ stays
	rm -rf $(VENV)
