# Written by docs/public_names.py from __init__.py.
from amodal.evaluators.candidate_ranking import rank_candidates as rank_candidates
from amodal.evaluators.embedding import EmbeddedSource as EmbeddedSource
from amodal.evaluators.embedding import embed_items as embed_items
from amodal.evaluators.generation import evaluate_generation as evaluate_generation
from amodal.evaluators.generation import generate_texts as generate_texts
from amodal.evaluators.geometry import evaluate_geometry as evaluate_geometry
from amodal.evaluators.interpretation import interpret as interpret
from amodal.evaluators.match_threshold import MatchCalibration as MatchCalibration
from amodal.evaluators.match_threshold import calibrate_matches as calibrate_matches
from amodal.evaluators.mixed_gallery import evaluate_mixed_gallery as evaluate_mixed_gallery
from amodal.evaluators.prediction import PredictionResult as PredictionResult
from amodal.evaluators.prediction import evaluate_prediction as evaluate_prediction
from amodal.evaluators.probe import evaluate_probe as evaluate_probe
from amodal.evaluators.reconstruction import evaluate_reconstruction as evaluate_reconstruction
from amodal.evaluators.retrieval import evaluate_captioner_retrieval as evaluate_captioner_retrieval
from amodal.evaluators.retrieval import evaluate_retrieval as evaluate_retrieval
from amodal.evaluators.robustness import evaluate_robustness as evaluate_robustness
from amodal.evaluators.teacher_forcing import evaluate_teacher_forced as evaluate_teacher_forced
from amodal.evaluators.text_to_image import evaluate_text_to_image as evaluate_text_to_image
from amodal.evaluators.zero_shot import evaluate_zero_shot as evaluate_zero_shot

__all__ = [
    "EmbeddedSource",
    "MatchCalibration",
    "PredictionResult",
    "calibrate_matches",
    "embed_items",
    "evaluate_captioner_retrieval",
    "evaluate_generation",
    "evaluate_geometry",
    "evaluate_mixed_gallery",
    "evaluate_prediction",
    "evaluate_probe",
    "evaluate_reconstruction",
    "evaluate_retrieval",
    "evaluate_robustness",
    "evaluate_teacher_forced",
    "evaluate_text_to_image",
    "evaluate_zero_shot",
    "generate_texts",
    "interpret",
    "rank_candidates",
]
