# make demo   a small network on synthetic heads, trained and used, in thirteen minutes without a GPU
# make prepare-demo   an ADNI-like download of DICOM series made from synthetic heads, and prepare.py on it
# make table   the methods it is compared with, each trained for a few minutes on the same heads, and all scores
# make test   the tests
# make lint   the linter
# Each makes its virtual environment the first time, in .venv (prepare-demo in .venv-prep, without PyTorch);
# PYTHON=python3.12 chooses the interpreter.

PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
PREP_VENV := .venv-prep
PREP := $(PREP_VENV)/bin/python
SUBJECT := synthetic-008
TRAINING := --data demo/data --train-list demo/train.txt --val-list demo/validation.txt \
  --size 64 --cache memory --workers 0
# Both sources weigh the same: a reader looks for what either shows.
OBJECTIVE := --objective salient-composite --alpha1 1 --alpha2 1 --beta1 1 --beta2 1 --gamma1 1 --gamma2 1
# Without MS-SSIM, whose scales need a larger grid, and SCD (which comes with CC), which has no value for a copy.
SCORES := psnr ssim nmi fsim psnr_pooled mi fmi_edge qabf vif piella_qw

.PHONY: demo demo-run table prepare-demo test lint clean

define check_python
@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' || \
  { echo "error: PYTHON=$(PYTHON): Python 3.11 or 3.12 is needed; run make PYTHON=python3.12" >&2; exit 2; }
endef

$(VENV)/.installed: requirements.txt
	$(check_python)
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet -r requirements.txt
	@touch $@

$(PREP_VENV)/.installed: requirements-prep.txt
	$(check_python)
	$(PYTHON) -m venv $(PREP_VENV)
	$(PREP) -m pip install --quiet -r requirements-prep.txt
	@touch $@

$(VENV)/.installed-dev: requirements-dev.txt requirements-prep.txt $(VENV)/.installed
	$(RUN) -m pip install --quiet -r requirements-dev.txt
	@touch $@

# $(call train,folder,name,flags): a run of train_diff.py, which goes on where it was interrupted.
define train
@if [ -f $(1)/$(2)/last.pt ]; then $(RUN) train_diff.py --resume $(1)/$(2); \
else rm -rf $(1)/$(2); $(RUN) train_diff.py $(TRAINING) --out $(1) --name $(2) $(3); fi
endef

# Six subjects to train on, one to choose the best checkpoint with, one that no training sees. Beside the six 94 pairs
# an epoch are drawn, with other contrasts, tracers, masks and blur: on one kind of head alone the network learns no
# other. The head of bands needs no gate (R10).
demo-run: $(VENV)/.installed
	@$(RUN) -m data.phantom --out demo/data --subjects 8
	@printf 'synthetic-%03d\n' 1 2 3 4 5 6 > demo/train.txt
	@printf 'synthetic-%03d\n' 7 > demo/validation.txt
	$(call train,result,demo,--network compact --fusion average --switch R10 $(OBJECTIVE) \
	  --synthesis heads --drawn 49 --ema 0.985 --optimizer muon --lr 4e-3 --warmup 20 --epochs 7 \
	  --val-every 7)

demo: demo-run
	@$(RUN) infer_sigleImage.py --checkpoint result/demo --overwrite --output demo/$(SUBJECT)_fused.nii.gz \
	  --mri demo/data/$(SUBJECT)/$(SUBJECT)_mri_MNI152.nii.gz --pet demo/data/$(SUBJECT)/$(SUBJECT)_FDG_MNI152.nii.gz
	@echo
	@echo "fused volume:  demo/$(SUBJECT)_fused.nii.gz   (a viewer opens it on top of the MRI in demo/data/$(SUBJECT)/)"
	@echo "picture:       demo/$(SUBJECT)_fused.png"
	@echo "curves:        $(VENV)/bin/tensorboard --logdir result/demo/log"

# Six heads of another seed, which no training and no choice of a checkpoint has seen. Learning rates and batches are
# made for a few minutes; the published ones are train_diff.py's own.
table: demo-run
	@$(RUN) -m data.phantom --out demo/held-out --subjects 6 --seed 20231015
	$(call train,result/table,swinfuse,--model swinfuse --lr 1e-4 --epochs 2)
	$(call train,result/table,u2fusion,--model u2fusion --lr 3e-4 --epochs 5 --batch-size 6)
	$(call train,result/table,dilran,--model dilran --lr 3e-4 --epochs 4)
	$(call train,result/table,matr,--model matr --epochs 12 --batch-size 8)
	@$(RUN) evaluate.py --data demo/held-out --size 64 --protocol volume --metrics $(SCORES) --lesions --out result/table \
	  --methods dc2fusion=result/demo swinfuse=result/table/swinfuse u2fusion=result/table/u2fusion \
	  dilran=result/table/dilran matr=result/table/matr laplacian
	@echo
	@cat result/table/table.md
	@echo
	@echo "statistics:    result/table/statistics.md"
	@echo "lesions:       result/table/lesions.png"
	@echo "pictures:      result/table/pictures-01.png"

prepare-demo: $(PREP_VENV)/.installed
	@$(PREP) -m data.phantom.download --out demo/download
	@$(PREP) prepare.py --adni demo/download --out demo/prepared

test: $(VENV)/.installed-dev
	OMP_NUM_THREADS=1 $(RUN) -m pytest -n auto --maxprocesses 8 --dist loadscope

lint: $(VENV)/.installed-dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

clean:
	rm -rf $(VENV) $(PREP_VENV) demo synthetic synthetic-held-out result/demo result/table
