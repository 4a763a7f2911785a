"""Metrics: embeddings or predictions in, numbers with bootstrap intervals out."""

from amodal.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "bootstrap": "Estimate",
        "captioning": "CaptionScores bleu caption_scores cider rouge_l",
        "classification": "ClassificationResult top_k_accuracy",
        "dialogue_ranking": "DialogueResult",
        "geometry": "EmbeddingSet GeometryOptions GeometryResult effective_rank geometry_metrics"
        " uniformity",
        "hubness": "Hubness hubness_metrics k_occurrence mixed_gallery",
        "image_distance": "nearest_distance",
        "learning_curve": "PowerLaw fit_power_law",
        "match_threshold": "MatchCurve fit_match_curve score_pairs",
        "mixed_retrieval": "MixedGalleryRows mixed_gallery_retrieval",
        "modality_gap": "EnergyTest centroid_gap energy_test modality_probe",
        "pointing": "PointingGameResult pointing_game",
        "prediction": "average_precision classification_metrics multi_label_metrics"
        " regression_metrics",
        "probe": "knn_probe linear_probe",
        "retrieval": "RetrievalResult cross_modal_retrieval image_text_retrieval retrieval_metrics",
        "robustness": "RobustnessCurve item_scores robustness_metrics",
        "scene_graph": "SceneGraphF1 scene_graph_f1 scene_graph_scores",
        "similarity": "CKA CosineHistogram PermutationTest alignment cosine_histogram linear_cka"
        " random_alignment rsa",
        "vqa": "VqaAccuracy answer_accuracy vqa_accuracy",
        "zero_shot": "class_embeddings zero_shot_metrics",
    },
)
