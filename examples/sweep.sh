#!/bin/sh
# A sweep of a few minutes on two cores that feeds every analysis: sh examples/sweep.sh [DIRECTORY]
# Stopped, it goes on where it was: finished runs are skipped.
set -e
out=${1:-runs/example}
sweep() {
    crlviz sweep point_big_maze --env-steps 1152000 --width 32 --seed 0-2 --set keep=1 --out "$out" "$@"
}
sweep --depth 4,8,16 --ablate residual
sweep --depth 4 --width 48,64
sweep --depth 4,16 --batch-size 128
sweep --actor-depth 4,16 --critic-depth 4,16
sweep --depth 4,16 --ablate layer-norm,swish
sweep --depth 4,16 --max-pair-distance 3
