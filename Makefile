# make demo   a small network on synthetic heads, trained and used, in a few minutes without a GPU
# make test   the tests
# make lint   the linter
# Each makes its virtual environment in .venv the first time; PYTHON=python3.12 chooses the interpreter.

PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
SUBJECT := synthetic-008

.PHONY: demo test lint clean

$(VENV)/.installed: requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' || \
	  { echo "error: PYTHON=$(PYTHON): Python 3.11 or 3.12 is needed; run make PYTHON=python3.12" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet -r requirements.txt
	@touch $@

$(VENV)/.installed-dev: requirements-dev.txt $(VENV)/.installed
	$(RUN) -m pip install --quiet -r requirements-dev.txt
	@touch $@

# Six subjects to train on, one to choose the best checkpoint with, one that no training sees.
demo: $(VENV)/.installed
	@$(RUN) -m data.phantom --out demo/data --subjects 8
	@printf 'synthetic-%03d\n' 1 2 3 4 5 6 > demo/train.txt
	@printf 'synthetic-%03d\n' 7 > demo/validation.txt
	@if [ -f result/demo/last.pt ]; then \
	  $(RUN) train_diff.py --resume result/demo; \
	else \
	  rm -rf result/demo; \
	  $(RUN) train_diff.py --data demo/data --train-list demo/train.txt --val-list demo/validation.txt \
	    --size 64 --embed-dim 24 --lr 1e-3 --epochs 60 --val-every 5 --cache memory --workers 0 --name demo; \
	fi
	@$(RUN) infer_sigleImage.py --checkpoint result/demo --overwrite --output demo/$(SUBJECT)_fused.nii.gz \
	  --mri demo/data/$(SUBJECT)/$(SUBJECT)_mri_MNI152.nii.gz --pet demo/data/$(SUBJECT)/$(SUBJECT)_FDG_MNI152.nii.gz
	@echo
	@echo "fused volume:  demo/$(SUBJECT)_fused.nii.gz   (a viewer opens it on top of the MRI in demo/data/$(SUBJECT)/)"
	@echo "picture:       demo/$(SUBJECT)_fused.png"
	@echo "curves:        $(VENV)/bin/tensorboard --logdir result/demo/log"

test: $(VENV)/.installed-dev
	$(RUN) -m pytest

lint: $(VENV)/.installed-dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

clean:
	rm -rf $(VENV) demo synthetic synthetic-held-out result/demo
