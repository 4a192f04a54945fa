"""Names of settings in JaxGCRL, brax and the paper's code, if they differ from crlviz's names."""

NAMES_ELSEWHERE = {
    "discounting": "gamma",
    "unroll_length": "unroll",
    "num_sgd_batches_per_training_step": "updates",
    "max_replay_size": "replay_steps",
    "total_env_steps": "env_steps",
    "num_timesteps": "env_steps",
    "num_epochs": "evaluations",
    "num_evals": "evaluations",
    "num_eval_envs": "eval_episodes",
    "eval_env_id": "eval_env",
    "env_id": "env",
    "env_name": "env",
    "actor_lr": "crl.learning_rate",
    "critic_lr": "crl.learning_rate",
    "alpha_lr": "crl.temperature_learning_rate",
    "logsumexp_penalty_coeff": "crl.logsumexp_penalty",
    "actor_network_width": "actor.width",
    "critic_network_width": "critic.width",
    "actor_depth": "actor.depth",
    "critic_depth": "critic.depth",
}
