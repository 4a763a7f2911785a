"""Alignment: closed-form maps between existing embeddings, without a training loop."""

from amodal.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "cca": "CCA fit_cca fit_cca_from_moments refit_last_layer",
        "correlation": "HeldOutCorrelation held_out_correlation",
        "kernel_cca": "KernelCCA fit_kernel_cca",
        "normalization": "Normalization csls dual_softmax querybank_softmax",
        "procrustes": "Procrustes",
        "unsupervised": "UnsupervisedAlignment unsupervised_alignment",
    },
)
