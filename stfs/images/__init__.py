"""Image files to tensors: what a model wants of a picture (``plan``), and making it of a file (``decode``)."""
