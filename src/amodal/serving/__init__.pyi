# Written by docs/public_names.py from __init__.py.
from amodal.serving.app import create_app as create_app
from amodal.serving.served import ServedModels as ServedModels
from amodal.serving.served import open_served as open_served

__all__ = [
    "ServedModels",
    "create_app",
    "open_served",
]
