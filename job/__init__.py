"""The training job: images to shards, shards to a model, a model to predictions."""

__version__ = "0.1.0"
