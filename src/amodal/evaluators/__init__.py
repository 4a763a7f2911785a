"""Evaluators: a model and a source in, metrics out."""

from amodal.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "candidate_ranking": "rank_candidates",
        "embedding": "EmbeddedSource embed_items",
        "generation": "evaluate_generation generate_texts",
        "geometry": "evaluate_geometry",
        "interpretation": "interpret",
        "match_threshold": "MatchCalibration calibrate_matches",
        "mixed_gallery": "evaluate_mixed_gallery",
        "prediction": "PredictionResult evaluate_prediction",
        "probe": "evaluate_probe",
        "reconstruction": "evaluate_reconstruction",
        "retrieval": "evaluate_retrieval evaluate_captioner_retrieval",
        "robustness": "evaluate_robustness",
        "teacher_forcing": "evaluate_teacher_forced",
        "text_to_image": "evaluate_text_to_image",
        "zero_shot": "evaluate_zero_shot",
    },
)
