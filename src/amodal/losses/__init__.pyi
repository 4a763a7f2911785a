# Written by docs/public_names.py from __init__.py.
from amodal.losses.adversarial import Adversarial as Adversarial
from amodal.losses.adversarial import AdversarialConfig as AdversarialConfig
from amodal.losses.adversarial import Discriminator as Discriminator
from amodal.losses.adversarial import confusion_loss as confusion_loss
from amodal.losses.adversarial import discriminator_loss as discriminator_loss
from amodal.losses.adversarial import gradient_penalty as gradient_penalty
from amodal.losses.adversarial import reversal_strength as reversal_strength
from amodal.losses.adversarial import reverse_gradient as reverse_gradient
from amodal.losses.answer_classification import (
    answer_classification_loss as answer_classification_loss,
)
from amodal.losses.autoencoding import DeepCCAE as DeepCCAE
from amodal.losses.autoencoding import DeepCCAEConfig as DeepCCAEConfig
from amodal.losses.autoencoding import deep_ccae_loss as deep_ccae_loss
from amodal.losses.balance import GradientBlendingConfig as GradientBlendingConfig
from amodal.losses.balance import GradientModulationConfig as GradientModulationConfig
from amodal.losses.balance import blending_weights as blending_weights
from amodal.losses.balance import gradient_modulation_factors as gradient_modulation_factors
from amodal.losses.cycle import Cycle as Cycle
from amodal.losses.cycle import CycleConfig as CycleConfig
from amodal.losses.cycle import Translator as Translator
from amodal.losses.cycle import cycle_loss as cycle_loss
from amodal.losses.cycle import matching_accuracy as matching_accuracy
from amodal.losses.cycle import soft_nearest_neighbour_cycle as soft_nearest_neighbour_cycle
from amodal.losses.cycle import (
    soft_nearest_neighbour_supervised_loss as soft_nearest_neighbour_supervised_loss,
)
from amodal.losses.cycle import translation_loss as translation_loss
from amodal.losses.decoupled import Decoupled as Decoupled
from amodal.losses.decoupled import DecoupledConfig as DecoupledConfig
from amodal.losses.decoupled import decoupled_loss as decoupled_loss
from amodal.losses.deep_cca import DeepCCA as DeepCCA
from amodal.losses.deep_cca import DeepCCAConfig as DeepCCAConfig
from amodal.losses.deep_cca import captured_correlation as captured_correlation
from amodal.losses.deep_cca import deep_cca_loss as deep_cca_loss
from amodal.losses.distillation import Distillation as Distillation
from amodal.losses.distillation import DistillationConfig as DistillationConfig
from amodal.losses.distillation import feature_distillation as feature_distillation
from amodal.losses.distillation import similarity_distillation as similarity_distillation
from amodal.losses.info_nce import InfoNCE as InfoNCE
from amodal.losses.info_nce import InfoNCEConfig as InfoNCEConfig
from amodal.losses.info_nce import info_nce_explicit as info_nce_explicit
from amodal.losses.info_nce import info_nce_loss as info_nce_loss
from amodal.losses.info_nce import one_way_info_nce as one_way_info_nce
from amodal.losses.language_modeling import LanguageModelingConfig as LanguageModelingConfig
from amodal.losses.language_modeling import language_modeling_loss as language_modeling_loss
from amodal.losses.matryoshka import Matryoshka as Matryoshka
from amodal.losses.matryoshka import MatryoshkaConfig as MatryoshkaConfig
from amodal.losses.matryoshka import truncate_embedding as truncate_embedding
from amodal.losses.moments import CMDConfig as CMDConfig
from amodal.losses.moments import CORALConfig as CORALConfig
from amodal.losses.moments import MMDConfig as MMDConfig
from amodal.losses.moments import MomentMatching as MomentMatching
from amodal.losses.moments import cmd as cmd
from amodal.losses.moments import coral as coral
from amodal.losses.moments import median_distance as median_distance
from amodal.losses.moments import mmd as mmd
from amodal.losses.negative_queue import NegativeQueue as NegativeQueue
from amodal.losses.nt_xent import NTXent as NTXent
from amodal.losses.nt_xent import NTXentConfig as NTXentConfig
from amodal.losses.nt_xent import nt_xent_loss as nt_xent_loss
from amodal.losses.positives import positives_from_keys as positives_from_keys
from amodal.losses.prediction import prediction_loss as prediction_loss
from amodal.losses.reconstruction import ReconstructionConfig as ReconstructionConfig
from amodal.losses.reconstruction import reconstruction_loss as reconstruction_loss
from amodal.losses.shared_private import SharedPrivate as SharedPrivate
from amodal.losses.shared_private import SharedPrivateConfig as SharedPrivateConfig
from amodal.losses.shared_private import agreement_loss as agreement_loss
from amodal.losses.shared_private import difference_loss as difference_loss
from amodal.losses.shared_private import normalized_hsic as normalized_hsic
from amodal.losses.sigmoid import SigmoidConfig as SigmoidConfig
from amodal.losses.sigmoid import SigmoidLoss as SigmoidLoss
from amodal.losses.sigmoid import sigmoid_loss as sigmoid_loss
from amodal.losses.triplet import Triplet as Triplet
from amodal.losses.triplet import TripletConfig as TripletConfig
from amodal.losses.triplet import triplet_loss as triplet_loss

__all__ = [
    "Adversarial",
    "AdversarialConfig",
    "CMDConfig",
    "CORALConfig",
    "Cycle",
    "CycleConfig",
    "Decoupled",
    "DecoupledConfig",
    "DeepCCA",
    "DeepCCAConfig",
    "DeepCCAE",
    "DeepCCAEConfig",
    "Discriminator",
    "Distillation",
    "DistillationConfig",
    "GradientBlendingConfig",
    "GradientModulationConfig",
    "InfoNCE",
    "InfoNCEConfig",
    "LanguageModelingConfig",
    "MMDConfig",
    "Matryoshka",
    "MatryoshkaConfig",
    "MomentMatching",
    "NTXent",
    "NTXentConfig",
    "NegativeQueue",
    "ReconstructionConfig",
    "SharedPrivate",
    "SharedPrivateConfig",
    "SigmoidConfig",
    "SigmoidLoss",
    "Translator",
    "Triplet",
    "TripletConfig",
    "agreement_loss",
    "answer_classification_loss",
    "blending_weights",
    "captured_correlation",
    "cmd",
    "confusion_loss",
    "coral",
    "cycle_loss",
    "decoupled_loss",
    "deep_cca_loss",
    "deep_ccae_loss",
    "difference_loss",
    "discriminator_loss",
    "feature_distillation",
    "gradient_modulation_factors",
    "gradient_penalty",
    "info_nce_explicit",
    "info_nce_loss",
    "language_modeling_loss",
    "matching_accuracy",
    "median_distance",
    "mmd",
    "normalized_hsic",
    "nt_xent_loss",
    "one_way_info_nce",
    "positives_from_keys",
    "prediction_loss",
    "reconstruction_loss",
    "reversal_strength",
    "reverse_gradient",
    "sigmoid_loss",
    "similarity_distillation",
    "soft_nearest_neighbour_cycle",
    "soft_nearest_neighbour_supervised_loss",
    "translation_loss",
    "triplet_loss",
    "truncate_embedding",
]
