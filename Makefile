# Linters and tests. The active environment needs quantsr with its extras dev and test.

NATIVE := $(shell git ls-files --cached --others --exclude-standard 'native/*.cc' 'native/*.h')

.PHONY: check test

check:
	ruff check .
	mypy
	clang-format --dry-run -Werror $(NATIVE)

test:
	python -m pytest
