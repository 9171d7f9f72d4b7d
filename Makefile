# make demo    install everything into .venv and run the demonstration (config.yaml as shipped)
# make test    the same environment, and the tests;  make test-slurm  only those on a cluster, which they start
# make fault-table   what a cluster does to a training: tests it, and writes docs/slurm.md's table of what they saw
# make env     only the environment;  make lint  only the style checks
# make check-slurm   what each rule would ask of your cluster, and what it says to that (docs/slurm.md)
# make bench-faces   how many faces the detector finds, by size and rotation, beside a peer (docs/faces.md)
# make bench-duplicates   which photos are taken for one picture: changed copies, moments of a burst (docs/faces.md)
# make bench-train   how fast the trainer is beside a plain diffusers loop, and its memory (docs/training.md)
# make bench-sample  how fast pictures of LoRAs are drawn beside the plain way (docs/sampling.md)
# make bench-choice  our rule and others' rules for choosing a checkpoint, judged on the same runs (docs/choice.md)
# make bench-likeness  what raises likeness, what keeps everybody else as they were, and what it costs (docs/likeness.md)
# make bench-base    what the demonstration's base model knows, and whether it can learn a face (resources/base/README.md)
# make bench-dataset how fast the data set's stages are, cold and again, and their memory (docs/dataset.md)
# make bench-report  how fast the report of 3,200 pictures is in a browser (docs/report.md)
# make bench-scale   what many subjects cost Snakemake, on this machine and on the tests' cluster (docs/scale.md)
# Another Python: make env PYTHON=/path/to/python. Nothing needs to be activated: .venv/bin/snakemake runs as it is.

# Of the Pythons that are new enough and can make environments, the one that the pinned versions were run on first.
PYTHON := $(shell for p in python3.11 python3.12 python3.13 python3; do \
	$$p -c 'import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && echo $$p && break; done)
DEVICE := $(shell [ "$$(uname -sm)" = "Linux x86_64" ] && nvidia-smi >/dev/null 2>&1 && echo gpu || echo cpu)
# Jobs and tests call python and snakemake by name.
WITH_VENV := PATH="$$PWD/.venv/bin:$$PATH"
PIP := .venv/bin/python -m pip install --disable-pip-version-check --no-input

.PHONY: env demo test test-slurm test-demonstration fault-table check-slurm lint bench-faces bench-duplicates bench-dataset bench-train bench-base \
	bench-sample bench-choice bench-likeness bench-report bench-scale
.DELETE_ON_ERROR:

env: .venv/installed-$(DEVICE)

demo: env
	tools/system_libraries.sh faces
	$(WITH_VENV) snakemake --cores all

# Two processes, because most of the time one core waits for Python to start; each computes in one thread.
test: env .venv/installed-test
	tools/system_libraries.sh faces
	tools/system_libraries.sh browser
	$(WITH_VENV) OMP_NUM_THREADS=1 python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder --durations 25 \
		--ignore tests/slurm --ignore tests/test_demonstration.py
	$(MAKE) --jobs 2 --output-sync test-slurm test-demonstration

test-demonstration: env .venv/installed-test
	tools/system_libraries.sh faces
	$(WITH_VENV) OMP_NUM_THREADS=1 python -m pytest tests/test_demonstration.py

# Beside one other process at most: there is one cluster, and its tests hit a training at certain moments.
test-slurm: SLURM_TESTS := tests/slurm
fault-table: SLURM_TESTS := tests/slurm/test_slurm_faults.py --fault-table docs/slurm.md
test-slurm fault-table: env .venv/installed-test
	tools/system_libraries.sh faces
	tools/system_libraries.sh slurm
	$(WITH_VENV) OMP_NUM_THREADS=1 python -m pytest $(SLURM_TESTS)

check-slurm: env
	$(WITH_VENV) python tools/check_slurm.py

lint: .venv/installed-test
	.venv/bin/ruff check
	.venv/bin/ruff format --check
	.venv/bin/snakefmt --check Snakefile rules

bench-faces: env
	tools/system_libraries.sh faces
	.venv/bin/python tools/calibrate_identity.py
	.venv/bin/python tools/bench_faces.py

bench-duplicates: env
	tools/system_libraries.sh faces
	.venv/bin/python tools/bench_duplicates.py

bench-base: env
	tools/system_libraries.sh faces
	.venv/bin/python tools/bench_base.py

bench-dataset: env
	tools/system_libraries.sh faces
	.venv/bin/python tools/bench_dataset.py

bench-train: env
	tools/system_libraries.sh faces
	.venv/bin/python tools/bench_train.py

bench-sample: env
	tools/system_libraries.sh faces
	.venv/bin/python tools/bench_sample.py

bench-choice: env
	tools/system_libraries.sh faces
	.venv/bin/python tools/bench_choice.py --folder .bench/choice

bench-likeness: env
	tools/system_libraries.sh faces
	.venv/bin/python tools/bench_likeness.py --folder .bench/likeness --rows docs/likeness.tsv

bench-report: env .venv/installed-test
	tools/system_libraries.sh browser
	.venv/bin/python tools/bench_report.py

bench-scale: env
	tools/system_libraries.sh slurm
	.venv/bin/python tools/bench_scale.py

# Kept by pins: a changed list installs again, over what is there.
.venv/installed-$(DEVICE): envs/base.txt envs/$(DEVICE).txt envs/unbundled.txt
	@[ -n "$(PYTHON)" ] || { echo "no Python 3.11 or newer with the venv module found; install one" \
		"(Debian, Ubuntu: apt-get install python3-venv; Fedora: dnf install python3; macOS: brew install python)" >&2; exit 1; }
	rm -f .venv/installed-*
	[ -x .venv/bin/python ] || "$(PYTHON)" -m venv .venv
	$(PIP) -r envs/$(DEVICE).txt
	PYTHONPATH=envs/pep667 $(PIP) --no-deps --no-build-isolation -r envs/unbundled.txt
	touch $@

.venv/installed-test: .venv/installed-$(DEVICE) envs/test.txt
	$(PIP) -r envs/test.txt
	touch $@
