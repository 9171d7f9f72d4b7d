#!/bin/bash
# Make resources/base, the demonstration's base model, from nothing: draw faces, label and choose them, and train.
#
#     tools/base/make_base.sh FOLDER [FACES] [VAE_STEPS] [UNET_STEPS]
#
# Needs the environment of `make env`. FOLDER is for the faces and the states of the trainings (1 GB). A stopped call
# can be resumed. With more faces or steps, the faces and steps that exist are used.
set -euo pipefail
work=${1:?"give a folder for the faces and the states"}
faces=${2:-10000} vae_steps=${3:-20000} unet_steps=${4:-60000}
here=$(dirname "${BASH_SOURCE[0]}")
python=$here/../../.venv/bin/python
mkdir -p "$work"

# The code of the generator's package does not run on a current OpenVINO. Only its networks are used, in an
# environment of their own.
if [ ! -e "$work/generator/installed" ]; then
    "$python" -m venv "$work/generator"
    "$work/generator/bin/pip" install --no-deps random-face==2021.7.21.1
    "$work/generator/bin/pip" install -r "$here/../../envs/generator.txt"
    touch "$work/generator/installed"
fi
"$work/generator/bin/python" "$here/draw_faces.py" "$work/faces" --count "$faces"
"$work/generator/bin/python" "$here/name_faces.py" "$work/faces"

"$python" "$here/../../scripts/fetch_models.py" --models "$work/models" --manifest "$work/models/models.json"
"$python" "$here/choose_faces.py" "$work/faces" "$work/models"
"$python" "$here/train_vae.py" "$work/faces" "$work/vae" --steps "$vae_steps"
"$python" "$here/train_unet.py" "$work/faces" "$work/vae" "$work/models" "$here/../../resources/base" \
    --steps "$unet_steps"
