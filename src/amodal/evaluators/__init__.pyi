# Written by docs/public_names.py from __init__.py.
from amodal.evaluators.candidate_ranking import rank_candidates as rank_candidates
from amodal.evaluators.prediction import PredictionResult as PredictionResult
from amodal.evaluators.prediction import predict_items as predict_items
from amodal.evaluators.robustness import RobustnessReport as RobustnessReport
from amodal.evaluators.robustness import measure_robustness as measure_robustness
from amodal.evaluators.text_to_image import TextToImageResult as TextToImageResult

__all__ = [
    "PredictionResult",
    "RobustnessReport",
    "TextToImageResult",
    "measure_robustness",
    "predict_items",
    "rank_candidates",
]
