"""A result of ``crlviz bench --json``, made by hand: an update takes 1 ms and 1 ns a FLOP."""

MEASURED = {
    "machine": {"device": "toy accelerator"},
    "env": "point_u_maze",
    "num_envs": 4,
    "remat": False,
    "env_steps_per_second": 500.0,
    "sampling": {"ours_rows_per_second": 1000.0},
    "updates": [
        {"flops": flops, "ours_updates_per_second": 1 / (1e-3 + flops / 1e9)} for flops in (8_000_000, 1_000_000)
    ],
}
