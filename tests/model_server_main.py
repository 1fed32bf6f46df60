"""``python -m model_server_main``: what the ``tensorflow_model_server`` executable runs."""

from stfs.cli import main_tensorflow_model_server

main_tensorflow_model_server()
