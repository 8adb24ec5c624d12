"""The sweeps: a search over the job's own knobs. The engines live here once they are built."""
