"""What the other processes of a run do: what the first one says, program by program, until it is over."""

from pathlib import Path
from typing import Any

from crlviz import jax_config
from training import config as configs
from training import sharding
from training.run import compiled, hosts, signals
from training.run.saved_state import Counters, Saved


@jax_config.as_usual
def work() -> int:
    """Compute this process's part of what the first process trains; its exit code.

    Signals are left to the first process, which decides when all stop; a second one ends this process at once.
    """
    here = sharding.chosen("all")
    made: dict[int, compiled.Programs] = {}
    state: Any = None
    with hosts.worker(), signals.heard(lambda _: None):
        while True:
            match hosts.receive():
                case {"order": "compile", "members": members, "config": config}:
                    made[members] = compiled.compiled(configs.load(config), members, here)
                case {"order": "start", "members": members, "seeds": seeds, "rewinds": rewinds}:
                    state = made[members].start(seeds, rewinds)
                case {"order": "load", "members": members, "paths": paths, "replay": replay, "rewinds": rewinds}:
                    saved = [Saved(Path(path), Counters(), replay) for path in paths]
                    state = made[members].load(saved, rewinds)
                case {"order": "advance", "members": members}:
                    state, *_ = made[members].advance(state)
                case {"order": "evaluate", "members": members, "seeds": seeds, "index": index}:
                    made[members].evaluate(state, seeds, index)
                case {"order": "copy", "members": members, "replay": replay}:
                    made[members].copy(state, replay=replay)
                case {"order": "end", "code": code}:
                    return code
