# Two commands are all that a new machine needs: `make demo` and `make test`. `make help` lists the rest.
# Each stage is a file target under runs/: what is done is skipped, what changed is made again, what was interrupted resumes.

SHELL := /usr/bin/env bash
.SHELLFLAGS := -o pipefail -ec
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help
MAKEFLAGS += --no-builtin-rules
PYTHON_FOR_VENV ?= python3
PY := .venv/bin/python
PYTEST := $(PY) -m pytest
# A worker of one thread a core, four at most: each holds 2 GB. A file's tests stay together, with what they share.
PYTEST_SPREAD := OMP_NUM_THREADS=1 $(PYTEST) -n auto --maxprocesses 4 --dist loadfile
# Without these, glibc gives each large buffer back to the system and faults it in again: 1.7-3.4 times slower on CPU.
export MALLOC_MMAP_THRESHOLD_ := 4294967296
export MALLOC_TRIM_THRESHOLD_ := 17179869184
# Waiting threads sleep: a spinning one takes the core from whatever else runs.
export OMP_WAIT_POLICY := PASSIVE
export PYTHONUNBUFFERED := 1
export TOKENIZERS_PARALLELISM := false
export WANDB_SILENT := true

help: ## list the targets
	@grep -hE '^[a-z][a-z-]*:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

# --- environment -------------------------------------------------------------------------------------------------------
.venv/installed: requirements.lock pyproject.toml
	$(PYTHON_FOR_VENV) -m venv .venv
	.venv/bin/pip install --quiet --requirement requirements.lock
	.venv/bin/pip install --quiet --no-deps --editable .
	touch $@

# --- checks ------------------------------------------------------------------------------------------------------------
.PHONY: help test test-slow benchmarks lint
test: .venv/installed ## all fast tests, on all cores (10 minutes on 2 cores)
	$(PYTEST_SPREAD) -m "not slow"

test-slow: .venv/installed ## DDP, resume and whole-chain tests, then the benchmarks, alone as they measure
	$(PYTEST_SPREAD) -m slow --ignore tests/benchmarks
	$(PYTEST) -m slow tests/benchmarks

benchmarks: .venv/installed ## speed and memory of the data layer, of writing, of quantisers, of the codebook's step, of clues, of the Fréchet distance and of its callback, as JSON under runs/benchmarks/
	for name in prepare_rate batches workers_memory doctor_rate generate packing quantizer codebook_step clues frechet callback_cost; do $(PY) -m tests.benchmarks.$$name; done

lint: .venv/installed ## ruff, mypy, shellcheck
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/shellcheck configs/slurm/*.sbatch .ci/run

# --- one chain of stages -----------------------------------------------------------------------------------------------
# $(1) run folder, $(2) the configs. A run whose inputs changed starts anew; one that was only interrupted goes on.
define fit
	@if [ -e $(1)/fit.done ] || { [ -e $(call last,$(1)) ] && [ -n "$$(find $^ -newer $(call last,$(1)) -print -quit)" ]; }; then \
	  rm -rf $(1)/fit.done $(1)/checkpoints; fi
	$(PY) main.py fit $(2) --run_dir=$(1) --ckpt_path=last
	@touch $(1)/fit.done
endef
last = $(1)/checkpoints/last.ckpt
# $(1) run folder, $(2) the configs
define test_stage
	$(PY) main.py test $(2) --run_dir=$(1) --ckpt_path=$(call last,$(1))
endef
define predict_stage
	$(PY) main.py predict $(2) --run_dir=$(1) --ckpt_path=$(call last,$(1))
endef

CORE := main.py configs/base.yaml lightning_modules/stages.py $(wildcard datamodules/*.py datamodules/*/*.py)
NETWORKS := lightning_modules/networks
CODE_all := lightning_modules/schedule.py lightning_modules/optimizers.py $(NETWORKS)/ranks.py
CODE_classifier := $(CODE_all) lightning_modules/classifier.py $(addprefix $(NETWORKS)/,classifier.py resizing.py boxes.py vqgan.py quantizer.py)
CODE_codebook := $(CODE_all) lightning_modules/codebook.py \
  $(addprefix $(NETWORKS)/,vqgan.py codes.py code_parts.py fidelity.py features.py quantizer.py fsq.py lfq.py discriminator.py losses.py transformer.py)
CODE_text := $(CODE_all) $(addprefix $(NETWORKS)/,tokenizer.py transformer.py text_encoder.py alignment.py patch_encoder.py adaptive_patches.py \
  boxes.py receptive_field.py local_norm.py pretrained_image.py pretrained_text.py key_patches.py key_patch_files.py key_patch_build.py clue_retriever.py text_numbers.py)
CODE_aligner := $(CODE_text) $(addprefix lightning_modules/,aligner.py encoders.py key_patch_run.py) $(addprefix $(NETWORKS)/,classifier.py vqgan.py statements.py \
  contrastive.py alignment_losses.py alignment_cases.py pointing.py bootstrap.py prompted_pointing.py retrieval.py zero_shot.py word_maps.py \
  clue_origins.py key_patch_candidates.py key_patch_atlas.py)
CODE_generator := $(CODE_text) lightning_modules/generator.py lightning_modules/contact_sheet.py $(addprefix $(NETWORKS)/,masked_generator.py sampling.py)
CODE_prompter := $(CODE_all) lightning_modules/prompter.py lightning_modules/prompter_parts.py \
  $(addprefix $(NETWORKS)/,tokenizer.py language_model.py adapters.py packing.py examples.py generation.py requests.py prompt_file.py \
  report_writer.py written.py copying.py guided.py text_checks.py instruct.py ngram.py \
  labelers.py chexbert.py radgraph.py report_metrics.py text_metrics.py)
MEASURES := $(wildcard callbacks/*.py callbacks/*/*.py)
MEASURES_codebook := $(MEASURES) $(NETWORKS)/reconstruction_metrics.py
MEASURES_cam := $(MEASURES) $(addprefix $(NETWORKS)/,grad_cam.py boxes.py cam_cases.py pointing.py bootstrap.py text_numbers.py alignment.py zero_shot.py)

# Weights, order of the images and their augmentation: nothing of a second classifier is that of the first.
OTHER_SEEDS := --seed_everything=1 --data.init_args.seed=1

# The chain from images with reports to evaluated samples.
# $(1) name of the chain: runs/$(1) and, where there are some, configs/experiment/$(1)/*.yaml; $(2) texts that it needs
stage_configs = -c configs/base.yaml -c configs/$(2).yaml $(if $(wildcard configs/experiment/$(1)/$(2).yaml),-c configs/experiment/$(1)/$(2).yaml)
define chain
runs/$(1)/classifier/fit.done: $$(CODE_classifier) $$(CORE) configs/classifier.yaml $(wildcard configs/experiment/$(1)/classifier.yaml) | .venv/installed
	$$(call fit,runs/$(1)/classifier,$(call stage_configs,$(1),classifier))

runs/$(1)/classifier/metrics.json: runs/$(1)/classifier/fit.done $$(MEASURES)
	$$(call test_stage,runs/$(1)/classifier,$(call stage_configs,$(1),classifier))

# The feature network of the losses is another run with another seed: the judge must not have been optimised against.
runs/$(1)/features/fit.done: $$(CODE_classifier) $$(CORE) configs/classifier.yaml $(wildcard configs/experiment/$(1)/classifier.yaml) | .venv/installed
	$$(call fit,runs/$(1)/features,$(call stage_configs,$(1),classifier) $(OTHER_SEEDS))

runs/$(1)/codebook/fit.done: runs/$(1)/features/fit.done runs/$(1)/classifier/fit.done $$(CODE_codebook) $$(CORE) configs/codebook.yaml $(wildcard configs/experiment/$(1)/codebook.yaml) | .venv/installed
	$$(call fit,runs/$(1)/codebook,$(call stage_configs,$(1),codebook))

runs/$(1)/codebook/metrics.json: runs/$(1)/codebook/fit.done runs/$(1)/classifier/fit.done $$(MEASURES_codebook)
	$$(call test_stage,runs/$(1)/codebook,$(call stage_configs,$(1),codebook))

runs/$(1)/codebook/tokens.safetensors: runs/$(1)/codebook/fit.done
	$$(call predict_stage,runs/$(1)/codebook,$(call stage_configs,$(1),codebook))

runs/$(1)/aligner/fit.done: runs/$(1)/features/fit.done runs/$(1)/codebook/tokens.safetensors $$(CODE_aligner) configs/aligner.yaml $(wildcard configs/experiment/$(1)/aligner.yaml) $(2) | .venv/installed
	$$(call fit,runs/$(1)/aligner,$(call stage_configs,$(1),aligner))

runs/$(1)/aligner/metrics.json: runs/$(1)/aligner/fit.done $$(MEASURES)
	$$(call test_stage,runs/$(1)/aligner,$(call stage_configs,$(1),aligner))

runs/$(1)/aligner/clues.safetensors: runs/$(1)/aligner/fit.done runs/$(1)/codebook/tokens.safetensors
	$$(call predict_stage,runs/$(1)/aligner,$(call stage_configs,$(1),aligner))

runs/$(1)/generator/fit.done: runs/$(1)/aligner/clues.safetensors $$(CODE_generator) configs/generator.yaml $(wildcard configs/experiment/$(1)/generator.yaml) | .venv/installed
	$$(call fit,runs/$(1)/generator,$(call stage_configs,$(1),generator))

runs/$(1)/generator/metrics.json: runs/$(1)/generator/fit.done runs/$(1)/classifier/fit.done $$(MEASURES)
	$$(call test_stage,runs/$(1)/generator,$(call stage_configs,$(1),generator))
endef

# --- the demo: everything on the embedded phantom ----------------------------------------------------------------------
$(eval $(call chain,demo))
PROMPTER := $(call stage_configs,demo,prompter)

runs/demo/vocabulary.json: $(CORE) | .venv/installed
	$(PY) -m datamodules vocabulary --layout phantom --studies 6000 --seed 0 --out $@

runs/demo/prompter/fit.done: runs/demo/vocabulary.json $(CODE_prompter) configs/prompter.yaml
	$(call fit,runs/demo/prompter,$(PROMPTER) --model.init_args.vocabulary=runs/demo/vocabulary.json)

runs/demo/prompter/metrics.json: runs/demo/prompter/fit.done $(MEASURES)
	$(call test_stage,runs/demo/prompter,$(PROMPTER))

runs/demo/prompter/prompts.jsonl: runs/demo/prompter/fit.done
	$(call predict_stage,runs/demo/prompter,$(PROMPTER) --data.init_args.predict_splits=[test])

# The last link: radiographs of reports that the prompter wrote.
runs/demo/generator/samples/samples.csv: runs/demo/generator/fit.done runs/demo/prompter/prompts.jsonl configs/experiment/prompted.yaml
	$(call predict_stage,runs/demo/generator,$(call stage_configs,demo,generator) -c configs/experiment/prompted.yaml --data.init_args.prompts=runs/demo/prompter/prompts.jsonl)

DEMO := $(foreach s,prompter classifier codebook aligner generator,runs/demo/$(s)/metrics.json) runs/demo/generator/samples/samples.csv
# A missed target fails, and leaves metrics.json and the table to be read.
runs/demo/demo.done: $(DEMO) configs/experiment/demo-targets.yaml
	$(PY) -m callbacks runs/demo --targets configs/experiment/demo-targets.yaml | tee runs/demo/table.txt
	@touch $@

.PHONY: demo nih clean
# Two lanes of one thread each do more than two threads one after the other: the prompter shares nothing with the images.
$(addprefix runs/demo/,prompter/fit.done prompter/metrics.json features/fit.done classifier/fit.done codebook/fit.done): export OMP_NUM_THREADS := 1
demo: .venv/installed ## the whole chain on the embedded phantom (about 30 minutes on 2 cores with bf16 arithmetic)
	$(MAKE) --no-print-directory -j2 runs/demo/demo.done
	@cat runs/demo/table.txt

# --- real radiographs: make nih NIH=<folder with Data_Entry_2017*.csv> -------------------------------------------------
NIH ?=
define require_nih
@if [ -z "$(NIH)" ] || [ ! -d "$(NIH)" ]; then \
  echo "make $@ needs the data set's folder: make $@ NIH=<folder that holds Data_Entry_2017*.csv, train_val_list.txt, test_list.txt and images/>; found '$(NIH)'"; exit 1; fi
endef
ifneq ($(NIH),)
export CXR_ROOT := $(abspath $(NIH))
endif
$(eval $(call chain,nih,runs/nih/prompts.jsonl))

# Label-only data: the prompter trained on the phantom writes each study's text from its labels and view.
runs/nih/prompts.jsonl: runs/demo/prompter/fit.done runs/nih/root configs/experiment/prompter-labels.yaml
	$(PY) main.py predict $(PROMPTER) -c configs/data/nih.yaml -c configs/experiment/prompter-labels.yaml --run_dir=runs/nih/prompter --ckpt_path=$(call last,runs/demo/prompter)
	cp runs/nih/prompter/prompts.jsonl $@

# Changes when another folder is given: its images are other data.
.PHONY: FORCE
FORCE:
runs/nih/root: FORCE
	@mkdir -p $(@D); echo "$(CXR_ROOT)" | cmp -s - $@ || echo "$(CXR_ROOT)" > $@
$(addprefix runs/nih/,features/fit.done classifier/fit.done codebook/fit.done): runs/nih/root

NIH_RUN := $(foreach s,classifier codebook aligner generator,runs/nih/$(s)/metrics.json)
runs/nih/metrics.json: $(NIH_RUN)
	$(PY) -m callbacks runs/nih | tee runs/nih/table.txt

$(addprefix runs/nih/,features/fit.done classifier/fit.done): export OMP_NUM_THREADS := 1
nih: .venv/installed ## the chain on real NIH ChestX-ray14 images at 128 px: make nih NIH=<folder>
	$(require_nih)
	$(MAKE) --no-print-directory -j2 runs/nih/metrics.json
	@cat runs/nih/table.txt

# --- real radiographs with real texts of other patients: the aligner beside the classifier's Grad-CAM ------------------
OPENI ?=
define require_openi
@if [ -z "$(OPENI)" ] || [ ! -e "$(OPENI)" ]; then \
  echo "make $@ needs real reports: make $@ NIH=<folder> OPENI=<NLMCXR_reports.tgz, or a folder with it>; found '$(OPENI)'"; exit 1; fi
endef
NIH_OPENI := $(call stage_configs,nih,aligner) -c configs/experiment/nih/aligner-openi.yaml

runs/nih-openi/reports.jsonl: runs/nih/root $(OPENI) $(CORE) configs/experiment/nih/aligner.yaml configs/experiment/nih/aligner-openi.yaml | .venv/installed
	$(PY) -m datamodules match-reports $(NIH_OPENI) --reports-layout openi --reports-root $(OPENI) --reports-option section=both --out $@

runs/nih-openi/aligner/fit.done: runs/nih/features/fit.done runs/nih-openi/reports.jsonl $(CODE_aligner) configs/aligner.yaml configs/experiment/nih/aligner.yaml configs/experiment/nih/aligner-openi.yaml
	$(call fit,runs/nih-openi/aligner,$(NIH_OPENI))

runs/nih-openi/aligner/metrics.json: runs/nih-openi/aligner/fit.done $(MEASURES)
	$(call test_stage,runs/nih-openi/aligner,$(NIH_OPENI))

runs/nih-openi/classifier/metrics.json: runs/nih/classifier/fit.done configs/experiment/nih/classifier-boxes.yaml $(MEASURES_cam)
	$(PY) main.py test $(call stage_configs,nih,classifier) -c configs/experiment/nih/classifier-boxes.yaml --run_dir=$(@D) --ckpt_path=$(call last,runs/nih/classifier)

runs/nih-openi/metrics.json: runs/nih-openi/classifier/metrics.json runs/nih-openi/aligner/metrics.json
	$(PY) -m callbacks runs/nih-openi | tee runs/nih-openi/table.txt

.PHONY: nih-aligner
nih-aligner: .venv/installed ## the aligner on NIH with OpenI's texts, beside Grad-CAM: make nih-aligner NIH=<folder> OPENI=<file or folder>
	$(require_nih)
	$(require_openi)
	$(MAKE) --no-print-directory -j2 runs/nih-openi/metrics.json

# --- codebooks of 1,024 codes -----------------------------------------------------------------------------------------
# Beside a chain's own codebook, with its classifiers; not in its folder, whose figures are merged by name.
# $(1) phantom or nih, $(2) the chain, $(3) its configs
define codebook_1024
runs/codebook-1024/$(1)/fit.done: runs/$(2)/features/fit.done runs/$(2)/classifier/fit.done $$(CODE_codebook) $$(CORE) $(3) | .venv/installed
	$$(call fit,runs/codebook-1024/$(1),$(addprefix -c ,configs/base.yaml $(3)))

runs/codebook-1024/$(1)/metrics.json: runs/codebook-1024/$(1)/fit.done runs/$(2)/classifier/fit.done configs/experiment/codebook-panel.yaml $$(MEASURES_codebook)
	$$(call test_stage,runs/codebook-1024/$(1),$(addprefix -c ,configs/base.yaml $(3)) -c configs/experiment/codebook-panel.yaml)
endef
$(eval $(call codebook_1024,phantom,demo,configs/codebook.yaml configs/experiment/codebook-1024.yaml))
$(eval $(call codebook_1024,nih,nih,configs/codebook.yaml configs/experiment/nih/codebook.yaml configs/experiment/nih/codebook-1024.yaml))
runs/codebook-1024/nih/fit.done: runs/nih/root

# The same checkpoint on ten times as many images: its AUROC is known to .001 there, to .005 on the test split.
FRESH := -c configs/base.yaml -c configs/codebook.yaml -c configs/experiment/codebook-1024.yaml -c configs/experiment/codebook-fresh.yaml
runs/codebook-1024/phantom-fresh/metrics.json: runs/codebook-1024/phantom/fit.done runs/demo/classifier/fit.done configs/experiment/codebook-fresh.yaml $(MEASURES_codebook)
	$(PY) main.py test $(FRESH) --run_dir=$(@D) --ckpt_path=$(call last,runs/codebook-1024/phantom)

.PHONY: codebook-phantom codebook-nih
codebook-phantom: .venv/installed ## the phantom's codebook of 1,024 codes, with all its figures
	$(MAKE) --no-print-directory -j2 runs/codebook-1024/phantom/metrics.json runs/codebook-1024/phantom-fresh/metrics.json

codebook-nih: .venv/installed ## that of NIH at 128 px, f8: make codebook-nih NIH=<folder>
	$(require_nih)
	$(MAKE) --no-print-directory -j2 runs/codebook-1024/nih/metrics.json

# --- all that is measured of a generator, with its protocol card ------------------------------------------------------
# Beside the chain, whose figures are merged by name. $(1) name of the chain, $(2) the configs of the callbacks
define evaluation
# What its images are worth in training needs samples of training prompts.
runs/evaluation/$(1)/samples/samples/samples.csv: runs/$(1)/generator/fit.done
	$$(PY) main.py predict $(call stage_configs,$(1),generator) --data.init_args.predict_splits=[train] --run_dir=runs/evaluation/$(1)/samples --ckpt_path=$$(call last,runs/$(1)/generator)

# A gate that fails has written its figures: the card is made of them, then make stops.
runs/evaluation/$(1)/evaluation.done: runs/evaluation/$(1)/samples/samples/samples.csv runs/$(1)/features/fit.done $(2) $$(MEASURES)
	rm -f runs/evaluation/$(1)/generator/metrics.json
	$$(PY) main.py test $(call stage_configs,$(1),generator) $(addprefix -c ,$(2)) --run_dir=runs/evaluation/$(1)/generator --ckpt_path=$$(call last,runs/$(1)/generator) || failed=$$$$?; \
	  $$(PY) -m callbacks card runs/evaluation/$(1)/generator --title $(1) > runs/evaluation/$(1)/card.md; \
	  $$(PY) -m callbacks runs/evaluation/$(1) | tee runs/evaluation/$(1)/table.txt; \
	  echo "card: runs/evaluation/$(1)/card.md"; exit $$$${failed:-0}
	@touch $$@
endef
EXPERIMENT := configs/experiment
$(eval $(call evaluation,demo,$(addprefix $(EXPERIMENT)/,evaluation.yaml privacy.yaml consistency.yaml memorisation.yaml utility.yaml)))
$(eval $(call evaluation,nih,$(EXPERIMENT)/nih/evaluation.yaml))

# What the measures see and miss, on data whose answers are known, as JSON under runs/benchmarks/.
PLANTED = --classifiers $(call last,runs/$(1)/classifier) $(call last,runs/$(1)/features) --codebook $(call last,runs/$(1)/codebook)
runs/evaluation/measures.done: $(foreach s,classifier features codebook,runs/demo/$(s)/fit.done) $(MEASURES) $(wildcard tests/benchmarks/*.py)
	$(PY) -m tests.benchmarks.fidelity_ladders $(if $(NIH),--nih $(NIH))
	$(PY) -m tests.benchmarks.privacy_planted $(call PLANTED,demo)
	$(if $(NIH),$(PY) -m tests.benchmarks.privacy_planted --nih $(NIH) $(call PLANTED,nih))
	@mkdir -p $(@D); touch $@
$(if $(NIH),runs/evaluation/measures.done: $(foreach s,classifier features codebook,runs/nih/$(s)/fit.done))

.PHONY: evaluation nih-evaluation measures
measures: .venv/installed ## do the measures of images move as they must? after make demo; with NIH=<folder> after make nih, too
	$(MAKE) --no-print-directory runs/evaluation/measures.done

evaluation: .venv/installed ## all figures of the demo's generator with their card
	$(MAKE) --no-print-directory -j2 runs/evaluation/demo/evaluation.done

nih-evaluation: .venv/installed ## those of the NIH generator: make nih-evaluation NIH=<folder>
	$(require_nih)
	$(MAKE) --no-print-directory -j2 runs/evaluation/nih/evaluation.done

clean: ## remove the results of demo, nih, their evaluation and the codebooks (not the environment)
	rm -rf runs/demo runs/nih runs/nih-openi runs/codebook-1024 runs/evaluation
