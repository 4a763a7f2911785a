# Written by docs/public_names.py from __init__.py.
from amodal.training.errors import RunError as RunError
from amodal.training.errors import TrainingError as TrainingError
from amodal.training.kinds import MODEL_KINDS as MODEL_KINDS
from amodal.training.kinds import ModelKind as ModelKind
from amodal.training.kinds import open_run as open_run
from amodal.training.learning_curve import LearningCurve as LearningCurve
from amodal.training.learning_curve import trace_learning_curve as trace_learning_curve
from amodal.training.objectives import Objectives as Objectives
from amodal.training.progress import ProgressCallbacks as ProgressCallbacks
from amodal.training.recipe import Recipe as Recipe
from amodal.training.recipe import load_recipe as load_recipe
from amodal.training.recipe import parse_recipe as parse_recipe
from amodal.training.run import RunResult as RunResult
from amodal.training.run import train_run as train_run

__all__ = [
    "MODEL_KINDS",
    "LearningCurve",
    "ModelKind",
    "Objectives",
    "ProgressCallbacks",
    "Recipe",
    "RunError",
    "RunResult",
    "TrainingError",
    "load_recipe",
    "open_run",
    "parse_recipe",
    "trace_learning_curve",
    "train_run",
]
