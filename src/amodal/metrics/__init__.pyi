# Written by docs/public_names.py from __init__.py.
from amodal.metrics.bootstrap import Estimate as Estimate
from amodal.metrics.captioning import CaptionScores as CaptionScores
from amodal.metrics.captioning import bleu as bleu
from amodal.metrics.captioning import caption_scores as caption_scores
from amodal.metrics.captioning import cider as cider
from amodal.metrics.captioning import rouge_l as rouge_l
from amodal.metrics.classification import ClassificationResult as ClassificationResult
from amodal.metrics.classification import top_k_accuracy as top_k_accuracy
from amodal.metrics.dialogue_ranking import DialogueResult as DialogueResult
from amodal.metrics.geometry import EmbeddingSet as EmbeddingSet
from amodal.metrics.geometry import GeometryOptions as GeometryOptions
from amodal.metrics.geometry import GeometryResult as GeometryResult
from amodal.metrics.geometry import effective_rank as effective_rank
from amodal.metrics.geometry import geometry_metrics as geometry_metrics
from amodal.metrics.geometry import uniformity as uniformity
from amodal.metrics.hubness import Hubness as Hubness
from amodal.metrics.hubness import hubness_metrics as hubness_metrics
from amodal.metrics.hubness import k_occurrence as k_occurrence
from amodal.metrics.hubness import mixed_gallery as mixed_gallery
from amodal.metrics.image_distance import nearest_distance as nearest_distance
from amodal.metrics.learning_curve import PowerLaw as PowerLaw
from amodal.metrics.learning_curve import fit_power_law as fit_power_law
from amodal.metrics.match_threshold import MatchCurve as MatchCurve
from amodal.metrics.match_threshold import fit_match_curve as fit_match_curve
from amodal.metrics.match_threshold import score_pairs as score_pairs
from amodal.metrics.mixed_retrieval import MixedGalleryRows as MixedGalleryRows
from amodal.metrics.mixed_retrieval import mixed_gallery_retrieval as mixed_gallery_retrieval
from amodal.metrics.modality_gap import EnergyTest as EnergyTest
from amodal.metrics.modality_gap import centroid_gap as centroid_gap
from amodal.metrics.modality_gap import energy_test as energy_test
from amodal.metrics.modality_gap import modality_probe as modality_probe
from amodal.metrics.pointing import PointingGameResult as PointingGameResult
from amodal.metrics.pointing import pointing_game as pointing_game
from amodal.metrics.prediction import average_precision as average_precision
from amodal.metrics.prediction import classification_metrics as classification_metrics
from amodal.metrics.prediction import multi_label_metrics as multi_label_metrics
from amodal.metrics.prediction import regression_metrics as regression_metrics
from amodal.metrics.probe import knn_probe as knn_probe
from amodal.metrics.probe import linear_probe as linear_probe
from amodal.metrics.retrieval import RetrievalResult as RetrievalResult
from amodal.metrics.retrieval import cross_modal_retrieval as cross_modal_retrieval
from amodal.metrics.retrieval import image_text_retrieval as image_text_retrieval
from amodal.metrics.retrieval import retrieval_metrics as retrieval_metrics
from amodal.metrics.robustness import RobustnessCurve as RobustnessCurve
from amodal.metrics.robustness import item_scores as item_scores
from amodal.metrics.robustness import robustness_metrics as robustness_metrics
from amodal.metrics.scene_graph import SceneGraphF1 as SceneGraphF1
from amodal.metrics.scene_graph import scene_graph_f1 as scene_graph_f1
from amodal.metrics.scene_graph import scene_graph_scores as scene_graph_scores
from amodal.metrics.similarity import CKA as CKA
from amodal.metrics.similarity import CosineHistogram as CosineHistogram
from amodal.metrics.similarity import PermutationTest as PermutationTest
from amodal.metrics.similarity import alignment as alignment
from amodal.metrics.similarity import cosine_histogram as cosine_histogram
from amodal.metrics.similarity import linear_cka as linear_cka
from amodal.metrics.similarity import random_alignment as random_alignment
from amodal.metrics.similarity import rsa as rsa
from amodal.metrics.vqa import VqaAccuracy as VqaAccuracy
from amodal.metrics.vqa import answer_accuracy as answer_accuracy
from amodal.metrics.vqa import vqa_accuracy as vqa_accuracy
from amodal.metrics.zero_shot import class_embeddings as class_embeddings
from amodal.metrics.zero_shot import zero_shot_metrics as zero_shot_metrics

__all__ = [
    "CKA",
    "CaptionScores",
    "ClassificationResult",
    "CosineHistogram",
    "DialogueResult",
    "EmbeddingSet",
    "EnergyTest",
    "Estimate",
    "GeometryOptions",
    "GeometryResult",
    "Hubness",
    "MatchCurve",
    "MixedGalleryRows",
    "PermutationTest",
    "PointingGameResult",
    "PowerLaw",
    "RetrievalResult",
    "RobustnessCurve",
    "SceneGraphF1",
    "VqaAccuracy",
    "alignment",
    "answer_accuracy",
    "average_precision",
    "bleu",
    "caption_scores",
    "centroid_gap",
    "cider",
    "class_embeddings",
    "classification_metrics",
    "cosine_histogram",
    "cross_modal_retrieval",
    "effective_rank",
    "energy_test",
    "fit_match_curve",
    "fit_power_law",
    "geometry_metrics",
    "hubness_metrics",
    "image_text_retrieval",
    "item_scores",
    "k_occurrence",
    "knn_probe",
    "linear_cka",
    "linear_probe",
    "mixed_gallery",
    "mixed_gallery_retrieval",
    "modality_probe",
    "multi_label_metrics",
    "nearest_distance",
    "pointing_game",
    "random_alignment",
    "regression_metrics",
    "retrieval_metrics",
    "robustness_metrics",
    "rouge_l",
    "rsa",
    "scene_graph_f1",
    "scene_graph_scores",
    "score_pairs",
    "top_k_accuracy",
    "uniformity",
    "vqa_accuracy",
    "zero_shot_metrics",
]
