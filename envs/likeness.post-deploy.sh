#!/bin/sh
# Made from unbundled.txt by tools/make_conda_envs.py; change that list, not this file.
python -m pip install --no-deps --no-build-isolation realesrgan==0.3.0 basicsr==1.4.2
