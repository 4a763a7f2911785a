"""Evaluators: a model and a source in, metrics out."""

from amodal.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "candidate_ranking": "rank_candidates",
        "prediction": "PredictionResult predict_items",
        "robustness": "RobustnessReport measure_robustness",
        "text_to_image": "TextToImageResult",
    },
)
