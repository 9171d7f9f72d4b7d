# make env               make the environment .venv
# make demo              make .venv and run the demonstration (config.yaml)
# make test              make .venv and run all tests
# make test-unit         run the unit tests only
# make test-slurm        run the tests on a SLURM cluster, which they start
# make fault-table       test a training on a faulty cluster and write the results into docs/slurm.md
# make lint              check style and types
# make docs              write the documents that are made from the code
# make check-slurm       show what each rule would request from your cluster, and its answer (docs/slurm.md)
# make bench-faces       faces that the detector finds, by size and rotation, compared with YuNet (docs/faces.md)
# make bench-duplicates  photos that are recognised as copies: changed copies, moments of a burst (docs/faces.md)
# make bench-train       speed and memory of the trainer, compared with a plain diffusers loop (docs/training.md)
# make bench-sample      speed of drawing with LoRAs, compared with a simple script (docs/sampling.md)
# make bench-choice      our rule for choosing a checkpoint, compared with others on the same runs (docs/choice.md)
# make bench-likeness    settings that raise likeness or keep other people unchanged, and their cost (docs/likeness.md)
# make bench-portraits   likeness that the face pass brings into full-body pictures (docs/portraits.md)
# make bench-passes      speed and memory of the hires and the face pass at full size (docs/portraits.md)
# make bench-base        abilities of the demonstration's base model (resources/base/README.md)
# make bench-dataset     speed and memory of the data set's stages, without and with caches (docs/dataset.md)
# make bench-report      speed of a report with 3,200 pictures in a browser (docs/report.md)
# make bench-scale       time of Snakemake for many subjects, here and on the tests' cluster (docs/scale.md)
#
# To use another Python: make env PYTHON=/path/to/python. The environment need not be activated: run .venv/bin/snakemake.

# The first Python that is new enough and can make environments. 3.11 is first: the pinned versions were tested with it.
PYTHON := $(shell for p in python3.11 python3.12 python3.13 python3; do \
	$$p -c 'import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && echo $$p && break; done)
DEVICE := $(shell [ "$$(uname -sm)" = "Linux x86_64" ] && nvidia-smi >/dev/null 2>&1 && echo gpu || echo cpu)
# Jobs and tests call python and snakemake by name, so .venv must be in PATH.
WITH_VENV := PATH="$$PWD/.venv/bin:$$PATH"
# Quiet unless it fails: the hundreds of lines about packages would hide what the user is to read.
PIP := .venv/bin/python -m pip install --disable-pip-version-check --no-input --quiet

.PHONY: env demo test test-unit docs test-slurm test-demonstration fault-table check-slurm lint bench-faces bench-duplicates bench-dataset bench-train bench-base \
	bench-sample bench-choice bench-likeness bench-portraits bench-passes bench-report bench-scale
.DELETE_ON_ERROR:

env: .venv/installed-$(DEVICE)

demo: env
	tools/system_libraries.sh faces
	$(WITH_VENV) snakemake --cores all

# Three processes on two cores, because tests often wait for a kill, a lock or a browser. Each computes in one thread.
test: env .venv/installed-test
	tools/system_libraries.sh faces
	tools/system_libraries.sh browser
	$(WITH_VENV) OMP_NUM_THREADS=1 python -m pytest --numprocesses 3 --dist loadfile --no-loadscope-reorder --durations 25 \
		--ignore tests/slurm --ignore tests/workflow/test_demonstration.py
	$(MAKE) --jobs 2 --output-sync test-slurm test-demonstration

# For development: no workflow, no browser, no cluster.
test-unit: env .venv/installed-test
	tools/system_libraries.sh faces
	$(WITH_VENV) OMP_NUM_THREADS=1 python -m pytest tests/unit --numprocesses 2 --dist loadfile --no-loadscope-reorder

test-demonstration: env .venv/installed-test
	tools/system_libraries.sh faces
	$(WITH_VENV) OMP_NUM_THREADS=1 python -m pytest tests/workflow/test_demonstration.py

# At most one other process of tests may run beside these: they share one cluster and stop trainings at set moments.
test-slurm: SLURM_TESTS := tests/slurm
fault-table: SLURM_TESTS := tests/slurm/test_slurm_faults.py --fault-table docs/slurm.md
test-slurm fault-table: env .venv/installed-test
	tools/system_libraries.sh faces
	tools/system_libraries.sh slurm
	$(WITH_VENV) OMP_NUM_THREADS=1 python -m pytest $(SLURM_TESTS)

check-slurm: env
	$(WITH_VENV) python tools/check_slurm.py

# Writes docs/config.md, its schema, and the picture of the rooms from the code.
docs: env
	PYTHONPATH=scripts .venv/bin/python tools/document_config.py
	.venv/bin/python tools/draw_rooms.py

lint: .venv/installed-test
	.venv/bin/ruff check
	.venv/bin/ruff format --check
	.venv/bin/snakefmt --check Snakefile rules
	.venv/bin/mypy

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

bench-portraits: env
	tools/system_libraries.sh faces
	.venv/bin/python tools/bench_portraits.py --folder .bench/portraits

bench-passes: env
	tools/system_libraries.sh faces
	.venv/bin/python tools/bench_passes.py

bench-report: env .venv/installed-test
	tools/system_libraries.sh browser
	.venv/bin/python tools/bench_report.py

bench-scale: env
	tools/system_libraries.sh slurm
	.venv/bin/python tools/bench_scale.py

# If a list of pins changes, its packages are installed again over the existing ones.
.venv/installed-$(DEVICE): envs/base.txt envs/$(DEVICE).txt envs/unbundled.txt
	@[ -n "$(PYTHON)" ] || { echo "no Python 3.11 or newer with the venv module found; install one" \
		"(Debian, Ubuntu: apt-get install python3-venv; Fedora: dnf install python3; macOS: brew install python)" >&2; exit 1; }
	rm -f .venv/installed-*
	[ -x .venv/bin/python ] || "$(PYTHON)" -m venv .venv
	@echo "installing the packages of envs/$(DEVICE).txt into .venv (3 minutes)"
	@$(PIP) -r envs/$(DEVICE).txt
	@PYTHONPATH=envs/pep667 $(PIP) --no-deps --no-build-isolation -r envs/unbundled.txt
	touch $@

.venv/installed-test: .venv/installed-$(DEVICE) envs/test.txt
	@echo "installing the packages of envs/test.txt into .venv"
	@$(PIP) -r envs/test.txt
	touch $@
