"""jax programs in a browser: an emitter of JavaScript, and what a page that runs agents needs."""
