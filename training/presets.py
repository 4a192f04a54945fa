"""The named presets: which settings they change."""

from typing import Any

from crlviz import envs
from crlviz.errors import UsageError

# The settings that each preset changes, by dotted field name.
PRESETS: dict[str, dict[str, Any]] = {
    # The defaults are the paper's values; its code also keeps each environment's first start and goal.
    "paper": {"redraw_goals": False},
    # A complete run in a few thousand steps, to check that a body trains at all.
    "smoke": {
        "actor.width": 32,
        "critic.width": 32,
        "num_envs": 8,
        "unroll": 25,
        "updates": 4,
        "batch_size": 32,
        "replay_steps": 200,
        "window": 100,
        "env_steps": 2_000,
        "evaluations": 2,
        "eval_episodes": 4,
        "episode_length": 50,
    },
    # A point mass in a maze learns with these in a minute on one core; ``envs.BODIES`` adapts them to other bodies.
    "laptop": {
        "actor.width": 64,
        "critic.width": 64,
        "actor.start": "quiet",
        "critic.start": "quiet",
        "crl.initial_temperature": 0.3,
        "crl.temperature_learning_rate": 1e-3,
        "sac.initial_temperature": 0.1,
        "sac.temperature_learning_rate": 1e-3,
        "td3.explore_noise": 0.8,
        "td3.noise_bound": 1.0,
        "num_envs": 64,
        "unroll": 150,
        "updates": 32,
        "batch_size": 64,
        "replay_steps": 1_500,
        "window": 1_500,
        "env_steps": 2_304_000,
        "evaluations": 16,
    },
}


def preset(name: str, env: str = "") -> dict[str, Any]:
    """The settings that a preset changes, adapted to the body of ``env`` if that is given.

    Raises:
      UsageError: unknown preset or environment.
    """
    if name not in PRESETS:
        raise UsageError(f"no preset is called {name!r}; take {' or '.join(PRESETS)}")
    own = envs.laptop_settings(env) if name == "laptop" and env else None
    return PRESETS[name] | (own or {})


def preset_of(name: str | None, env: str) -> str:
    """The preset that a run starts from: ``name``, or the default of the environment if that is empty."""
    if not env:
        return name or "paper"
    return name or ("paper" if envs.laptop_settings(env) is None else "laptop")
