"""Whether potential flows raise the likelihood of held-out images while a VAE learns."""

from fastflow.studies.likelihood.study import study_likelihood

__all__ = ["study_likelihood"]
