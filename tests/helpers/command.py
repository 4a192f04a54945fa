"""The command line in tests: options of a training that takes seconds, and the message of a failed command."""

QUICK = [f"--set={name}" for name in ("num_envs=4", "unroll=10", "updates=2", "window=30", "replay_steps=60")]
QUICK += ["--set=evaluations=2", "--set=eval_episodes=4", "--batch-size=8", "--env-steps=280", "--width=8"]


def error_of(result: tuple[int, str, str], code: int) -> str:
    """Check that a command failed with this exit code and one sentence; return the sentence."""
    assert result[0] == code, result
    lines = result[2].strip().splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("Error: ")
    return lines[0]
