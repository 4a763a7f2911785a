"""Training: recipes, the trainer, and runs of every kind of model."""

from amodal.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "errors": "RunError TrainingError",
        "kinds": "MODEL_KINDS ModelKind open_run",
        "learning_curve": "LearningCurve trace_learning_curve",
        "objectives": "Objectives",
        "progress": "ProgressCallbacks",
        "recipe": "Recipe load_recipe parse_recipe",
        "run": "RunResult train_run",
    },
)
