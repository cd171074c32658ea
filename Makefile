# Everything from nothing: `make serve` starts a server on the example report, `make test` checks the project.
PYTHON ?= python3
BIN := .venv/bin
STAMPS := .venv/.stamps

.PHONY: serve test clean

serve: $(STAMPS)/serve
	$(BIN)/holdfast serve examples/

test: $(STAMPS)/test .venv-openai2/.stamp .venv-openai3/.stamp
	$(BIN)/ruff check .
	$(BIN)/mypy --strict holdfast
	OPENAI2_PYTHON=$(CURDIR)/.venv-openai2/bin/python OPENAI3_PYTHON=$(CURDIR)/.venv-openai3/bin/python \
		$(BIN)/python -m pytest

$(STAMPS)/venv:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Holdfast needs Python 3.11 or newer")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	mkdir -p $(STAMPS)
	touch $@

$(STAMPS)/serve: pyproject.toml constraints.txt | $(STAMPS)/venv
	$(BIN)/python -m pip install -q -c constraints.txt -e .
	touch $@

$(STAMPS)/test: pyproject.toml constraints.txt | $(STAMPS)/venv
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[dev,gpu,s3,postgres,milvus,qdrant,kms,pkcs11]'
	touch $@ $(STAMPS)/serve

# The official client's two majors do not fit into one environment.
.venv-openai2/.stamp: OPENAI := openai==2.54.0
.venv-openai3/.stamp: OPENAI := openai==3.54.0
.venv-openai%/.stamp: Makefile | $(STAMPS)/venv
	$(PYTHON) -m venv .venv-openai$*
	.venv-openai$*/bin/python -m pip install -q '$(OPENAI)'
	touch $@

clean:
	rm -rf .venv .venv-openai2 .venv-openai3 build dist
