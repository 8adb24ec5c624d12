"""TensorFlow and Keras, for all modules that need them: imported here, so that no setting of the user reaches them."""

from __future__ import annotations

from job.machine import isolation

with isolation.imports():
    import keras
    import tensorflow as tf

__all__ = ["keras", "tf"]
