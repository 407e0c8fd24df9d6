#!/usr/bin/env bash
# All scores of the README: benchmarks/evaluate_all.sh DIR, where DIR holds Set5, Set14 and B100.
set -euo pipefail
cd "$(dirname "$0")/.."
score() { quantsr evaluate -n "$1" --data "$data" --set Set5 Set14 B100 --depth "$3" --json "benchmarks/results/quality-$2.json"; }
data=$1
score bicubic-x4 x4-bicubic full
score checkpoints/x4-float-9.safetensors x4-float full
score quantsr-c-x4-w4a4 x4-w4a4 all
score quantsr-c-x4-w3a3 x4-w3a3 all
score quantsr-c-x4-w2a2 x4-w2a2 all
score checkpoints/t-x4-float.safetensors t-x4-float full
score quantsr-t-x4-w4a4 t-x4-w4a4 all
score quantsr-t-x4-w2a2 t-x4-w2a2 all
score bicubic-x3 x3-bicubic full
score checkpoints/x3-float-4.safetensors x3-float full
score quantsr-c-x3-w4a4 x3-w4a4 all
score quantsr-c-x3-w3a3 x3-w3a3 all
score quantsr-c-x3-w2a2 x3-w2a2 all
score bicubic-x2 x2-bicubic full
score checkpoints/x2-float-5.safetensors x2-float full
score quantsr-c-x2-w4a4 x2-w4a4 all
score quantsr-c-x2-w3a3 x2-w3a3 all
score quantsr-c-x2-w2a2 x2-w2a2 all
score checkpoints/t-x2-float.safetensors t-x2-float full
score quantsr-t-x2-w4a4 t-x2-w4a4 all
