"""The study of whether potential flows raise the likelihood of held-out images when a VAE is trained with them."""

from fastflow.studies.likelihood.study import study_likelihood

__all__ = ["study_likelihood"]
