"""Losses: embeddings or predictions in, one number out; one technique per file."""

from amodal.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "adversarial": "Adversarial AdversarialConfig Discriminator confusion_loss"
        " discriminator_loss gradient_penalty reversal_strength reverse_gradient",
        "answer_classification": "answer_classification_loss",
        "autoencoding": "DeepCCAE DeepCCAEConfig deep_ccae_loss",
        "balance": "GradientBlendingConfig GradientModulationConfig blending_weights"
        " gradient_modulation_factors",
        "cycle": "Cycle CycleConfig Translator cycle_loss matching_accuracy"
        " soft_nearest_neighbour_cycle soft_nearest_neighbour_supervised_loss translation_loss",
        "decoupled": "Decoupled DecoupledConfig decoupled_loss",
        "deep_cca": "DeepCCA DeepCCAConfig captured_correlation deep_cca_loss",
        "distillation": "Distillation DistillationConfig feature_distillation"
        " similarity_distillation",
        "info_nce": "InfoNCE InfoNCEConfig info_nce_explicit info_nce_loss one_way_info_nce",
        "language_modeling": "LanguageModelingConfig language_modeling_loss",
        "matryoshka": "Matryoshka MatryoshkaConfig truncate_embedding",
        "moments": "CMDConfig CORALConfig MMDConfig MomentMatching cmd coral median_distance mmd",
        "negative_queue": "NegativeQueue",
        "nt_xent": "NTXent NTXentConfig nt_xent_loss",
        "positives": "positives_from_keys",
        "prediction": "prediction_loss",
        "reconstruction": "ReconstructionConfig reconstruction_loss",
        "shared_private": "SharedPrivate SharedPrivateConfig agreement_loss difference_loss"
        " normalized_hsic",
        "sigmoid": "SigmoidConfig SigmoidLoss sigmoid_loss",
        "triplet": "Triplet TripletConfig triplet_loss",
    },
)
