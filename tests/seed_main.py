"""``python -m seed_main``: what the ``simple_tensorflow_serving`` executable runs."""

from stfs.cli import main_seed

main_seed()
