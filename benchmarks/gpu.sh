#!/usr/bin/env bash
# What a GPU is asked, one part or all: benchmarks/gpu.sh OUT [tests|tried|steps|data|training|embedding]...
# Needs the package with the extras dev and bench. Tables are appended to files in OUT; each part
# takes a few minutes on an H100 or H200. PYTHON names the interpreter.
set -euo pipefail
out=${1:?"usage: benchmarks/gpu.sh OUT [part]..."}
shift
parts=("$@")
[ $# -gt 0 ] || parts=(tests tried steps data training embedding)
python=${PYTHON:-python3}
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$out"

for part in "${parts[@]}"; do
  echo "== $part"
  case $part in
    tests) (cd "$here/.." && "$python" -m pytest -m gpu) ;;
    tried) "$python" "$here/tried.py" --device cuda | tee -a "$out/tried.md" ;;
    steps)
      for model in vit_small_patch16_224 vit_small_patch8_224; do
        "$python" "$here/train_step.py" --device cuda --batch 32 --rounds 5 --compile \
          --models "$model" --out "$out"
      done
      ;;
    data)
      "$python" "$here/data_path.py" --device cuda --batch 64 --step-batch 32 --out "$out"
      ;;
    training)
      "$python" "$here/training.py" --device cuda --batch 32 --warm-up 20 --steps 60 \
        --plain-steps 5 --compile --out "$out"
      ;;
    embedding)
      "$python" "$here/embed.py" --device cuda --sites 3848 --rounds 2 | tee -a "$out/embed.md"
      ;;
    *)
      echo "no such part: $part" >&2
      exit 2
      ;;
  esac
done
