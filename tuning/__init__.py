"""The sweeps: a search over the job's own knobs, by Ray Tune or KerasTuner."""
