#!/bin/sh
# Five algorithms at depths 4 and 16, about 15 minutes on two cores: sh examples/learners.sh [DIRECTORY]
# All look 100 steps ahead (discount 0.99). SAC has the learning rate and the start of the temperature that the laptop
# preset gives contrastive RL; the other settings are those of the laptop preset. Stopped, it goes on where it was.
set -e
out=${1:-runs/learners}
sweep() {
    env=$1
    shift
    crlviz sweep "$env" --algorithm crl,sac+her,td3+her,gcsl,gcbc --depth 4,16 --width 32 --seed 0-2 --set keep=1 \
        --set sac.discount=0.99 --set sac.learning_rate=3e-4 --set sac.initial_temperature=0.3 \
        --set sac.temperature_learning_rate=1e-3 --set td3.discount=0.99 --out "$out/$env" "$@"
}
sweep point_big_maze --env-steps 1152000
sweep swimmer --env-steps 4096000 --set evaluations=10
