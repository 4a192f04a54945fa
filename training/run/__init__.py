"""Running a training: compiled programs, evaluation, saving and resuming, several processes."""
