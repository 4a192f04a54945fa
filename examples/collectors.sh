#!/bin/sh
# Figure 8: a collector of depth 4 and one of depth 16, and learners of both depths from the buffer of each. Half an hour
# on a core. sh examples/collectors.sh [DIRECTORY]
set -e
out=${1:-runs/collectors}
for depth in 4 16; do
    crlviz train swimmer --depth "$depth" --learners 4,16 --width 32 --seed 0-2 --env-steps 6092800 \
        --set evaluations=19 --set save_every=1000 --set save_replay=false --set keep_state=false \
        --out "$out/depth$depth-seed{seed}"
done
