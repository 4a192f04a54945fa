"""The worker processes of a run: they run each program that the coordinator broadcasts, until it broadcasts the end."""

from pathlib import Path
from typing import Any

from crlviz import jax_config
from training import config as configs
from training import sharding
from training.run import compiled, hosts, signals
from training.run.programs import Programs
from training.run.saved_state import Counters, Saved


@jax_config.with_fixed_settings
def work() -> int:
    """Run this process's part of the coordinator's programs until the end; returns the exit code.

    The first signal is ignored, because the coordinator decides when all stop. A second one ends this process at once.
    """
    devices = sharding.select("all")
    programs: dict[int, Programs] = {}
    state: Any = None
    with hosts.worker(), signals.recorded(lambda _: None):
        while True:
            match hosts.receive():
                case {"order": "compile", "slots": slots, "config": config}:
                    programs[slots] = compiled.compiled(configs.load(config), slots, devices)
                case {"order": "start", "slots": slots, "seeds": seeds, "rewinds": rewinds}:
                    state = programs[slots].start(seeds, rewinds)
                case {"order": "load", "slots": slots, "paths": paths, "replay": replay, "rewinds": rewinds}:
                    saved = [Saved(Path(path), Counters(), replay) for path in paths]
                    state = programs[slots].load(saved, rewinds)
                case {"order": "advance", "slots": slots}:
                    state, *_ = programs[slots].advance(state)
                case {"order": "evaluate", "slots": slots, "seeds": seeds, "index": index}:
                    programs[slots].evaluate(state, seeds, index)
                case {"order": "copy", "slots": slots, "replay": replay}:
                    programs[slots].copy(state, replay=replay)
                case {"order": "end", "code": code}:
                    return code
