#!/bin/sh
# Learning from random actions alone, about 30 minutes on one core: sh examples/offline.sh [DIRECTORY]
# Contrastive RL and behavioral cloning learn from 3,800 trajectories of a point mass that begins anywhere in the maze
# and acts at random; contrastive RL that explores for itself is beside them. Stopped, it goes on where it was.
set -e
out=${1:-runs/offline}
data=$out/random.npz
mkdir -p "$out"
[ -f "$data" ] || crlviz record --env point_big_maze --policy random --starts anywhere --episodes 4000 \
    --validation 0.05 --out "$data"
crlviz sweep point_big_maze --depth 4,16 --width 32 --seed 0-3 --set keep=1 --out "$out/online"
crlviz sweep --dataset "$data" --algorithm crl,gcbc --depth 4,16 --width 32 --seed 0-3 --gradient-steps 10000 \
    --set keep=1 --out "$out/random"
