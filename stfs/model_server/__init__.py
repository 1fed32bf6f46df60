"""``tensorflow_model_server``: TensorFlow Serving's flags and files, and what they amount to here."""
