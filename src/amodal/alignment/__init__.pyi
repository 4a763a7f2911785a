# Written by docs/public_names.py from __init__.py.
from amodal.alignment.cca import CCA as CCA
from amodal.alignment.cca import fit_cca as fit_cca
from amodal.alignment.cca import fit_cca_from_moments as fit_cca_from_moments
from amodal.alignment.cca import refit_last_layer as refit_last_layer
from amodal.alignment.correlation import HeldOutCorrelation as HeldOutCorrelation
from amodal.alignment.correlation import held_out_correlation as held_out_correlation
from amodal.alignment.kernel_cca import KernelCCA as KernelCCA
from amodal.alignment.kernel_cca import fit_kernel_cca as fit_kernel_cca
from amodal.alignment.normalization import Normalization as Normalization
from amodal.alignment.normalization import csls as csls
from amodal.alignment.normalization import dual_softmax as dual_softmax
from amodal.alignment.normalization import querybank_softmax as querybank_softmax
from amodal.alignment.procrustes import Procrustes as Procrustes
from amodal.alignment.unsupervised import UnsupervisedAlignment as UnsupervisedAlignment
from amodal.alignment.unsupervised import unsupervised_alignment as unsupervised_alignment

__all__ = [
    "CCA",
    "HeldOutCorrelation",
    "KernelCCA",
    "Normalization",
    "Procrustes",
    "UnsupervisedAlignment",
    "csls",
    "dual_softmax",
    "fit_cca",
    "fit_cca_from_moments",
    "fit_kernel_cca",
    "held_out_correlation",
    "querybank_softmax",
    "refit_last_layer",
    "unsupervised_alignment",
]
