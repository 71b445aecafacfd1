#!/bin/sh
# A virtual environment with one peer, pinned:
#
#     benchmarks/peers/setup.sh trl|tunix FOLDER [cpu|cuda]
set -eu
peer=$1
folder=$2
device=${3:-cpu}

python3 -m venv "$folder"
pip="$folder/bin/pip"
"$pip" install --upgrade pip

case "$peer-$device" in
trl-cpu)
    # PyTorch's own index has wheels without CUDA; else any index that pip knows.
    "$pip" install torch==2.13.0+cpu --index-url https://download.pytorch.org/whl/cpu ||
        "$pip" install --prefer-binary torch==2.13.0+cpu ||
        "$pip" install torch==2.13.0
    ;;
trl-cuda) "$pip" install torch==2.13.0 ;;
tunix-cpu) "$pip" install jax==0.10.2 ;;
tunix-cuda) "$pip" install "jax[cuda13]==0.10.2" ;;
*)
    echo "usage: setup.sh trl|tunix FOLDER [cpu|cuda]" >&2
    exit 2
    ;;
esac
case "$peer" in
trl) "$pip" install trl==1.16.0 transformers==5.23.0 accelerate==1.15.0 datasets==5.2.0 ;;
tunix) "$pip" install google-tunix==0.1.7 flax==0.12.8 optax==0.2.8 ;;
esac
