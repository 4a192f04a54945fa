#!/bin/sh
# The swimmers of examples/swimmers: a quarter of an hour on one core. sh examples/swimmers.sh [DIRECTORY]
set -e
crlviz sweep swimmer --depth 4,8,16 --width 32 --seed 0-2 --env-steps 6092800 --set evaluations=19 \
    --set save_every=1000 --set save_replay=false --set keep_state=false --out "${1:-runs/swimmers}"
