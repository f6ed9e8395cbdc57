"""How well features separate the classes: scores that rank pretrained networks without training.

Each takes features (n, d) and labels (n,), which are class numbers of which some may be missing.
Higher is better, and scores are to be compared on the same images only.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Features = npt.NDArray[np.floating]
Labels = npt.NDArray[np.int64]
Reals = npt.NDArray[np.float64]

_BEYOND = 25  # how far the search goes past the extreme eigenvalues, in their logarithm
_TRIES = 64  # where the search looks first


def logme(features_nd: Features, labels_n: Labels) -> float:
    """Return LogME, the log evidence of linear regressions on the features, in nats an image.

    You et al. 2021, "LogME: Practical Assessment of Pre-trained Models for Transfer Learning",
    section 4: for each class, targets 1 and 0 are a linear function of the features plus noise of
    precision beta, with a Gaussian prior of precision alpha on its weights; the evidence is the
    highest over alpha and beta, and its mean is taken over classes. As in You et al. 2022,
    "Ranking and Tuning Pre-trained Models" (JMLR 23), one singular value decomposition serves all
    classes; but the maximum is searched for along alpha / beta, since the fixed point given there
    can stop short of it where the features explain little.
    """
    targets_nc = _one_hot(labels_n)
    left_nk, singular_k, _ = np.linalg.svd(features_nd.astype(np.float64), full_matrices=False)
    rank = int((singular_k > singular_k.max(initial=0) * _resolution(features_nd)).sum())
    eigenvalues_k = singular_k[:rank] ** 2
    energies_kc = (left_nk[:, :rank].T @ targets_nc) ** 2  # of the targets along each direction
    residue_c = np.maximum((targets_nc**2).sum(axis=0) - energies_kc.sum(axis=0), 0)
    evidences = [
        _highest_evidence(eigenvalues_k, energies_kc[:, c], residue_c[c], len(labels_n))
        for c in range(targets_nc.shape[1])
    ]
    return float(np.mean(evidences))


def _one_hot(labels_n: Labels) -> Reals:
    """Return a column of ones and zeros for each class that has an image, in their order."""
    classes, places_n = np.unique(labels_n, return_inverse=True)
    columns: Reals = np.eye(len(classes))[places_n]
    return columns


def _resolution(features_nd: Features) -> float:
    """Return the share of the largest singular value below which one is rounding alone."""
    return float(max(features_nd.shape) * np.finfo(np.float64).eps)


def _highest_evidence(eigenvalues_k: Reals, energies_k: Reals, residue: float, n: int) -> float:
    """Return the highest log evidence of one class over alpha and beta, per image.

    ``residue`` is what no weights explain of the target's sum of squares.
    """
    from scipy.optimize import minimize_scalar

    def loss(log_ratio: Reals | float) -> Reals:
        return -_log_evidence(np.exp(log_ratio), eigenvalues_k, energies_k, residue, n)

    if not len(eigenvalues_k):  # features that are 0 everywhere
        return -float(loss(0.0))
    first, last = np.log(eigenvalues_k.min()) - _BEYOND, np.log(eigenvalues_k.max()) + _BEYOND
    tries = np.linspace(first, last, _TRIES)
    place = int(loss(tries).argmin())
    near = (tries[max(place - 1, 0)], tries[min(place + 1, _TRIES - 1)])
    return float(-minimize_scalar(loss, bounds=near, method="bounded").fun)


def _log_evidence(
    ratio: Reals | float, eigenvalues_k: Reals, energies_k: Reals, residue: float, n: int
) -> Reals:
    """Return the log evidence per image at each alpha / beta, for the beta that is best there.

    That beta is n over the squared error with the prior's penalty.
    """
    shrinking_k = eigenvalues_k / np.asarray(ratio)[..., None]
    error = (energies_k / (1 + shrinking_k)).sum(axis=-1) + residue
    likelihood = n / 2 * (np.log(n / error) - 1 - np.log(2 * np.pi))
    evidence: Reals = (likelihood - np.log1p(shrinking_k).sum(axis=-1) / 2) / n
    return evidence


def h_score(features_nd: Features, labels_n: Labels) -> float:
    """Return the regularised H-score: how much of the features' spread lies between classes.

    tr(cov(f)^-1 cov(E[f | y])) of Bao et al. 2019, "An Information-theoretic Approach to
    Transferability in Task Transfer Learning", between 0 and classes - 1. With more features than
    images cov(f) has no inverse, so that it is shrunk towards a multiple of the identity by a share
    s, as Ledoit & Wolf 2004 choose it, and cov(E[f | y]) is multiplied by 1 - s (Ibrahim et al.
    2022, "Newer is not always better: Rethinking Transferability Metrics"). Features that are
    all the same score 0.
    """
    from sklearn.covariance import ledoit_wolf

    centred_nd = features_nd - features_nd.mean(axis=0, dtype=np.float64)
    if not centred_nd.any():
        return 0.0
    covariance_dd, share = ledoit_wolf(centred_nd, assume_centered=True)
    members_nc = _one_hot(labels_n)
    counts_c = members_nc.sum(axis=0)
    means_cd = members_nc.T @ centred_nd / counts_c[:, None]
    inverse_dd = np.linalg.pinv(covariance_dd, hermitian=True)
    between = ((means_cd @ inverse_dd * means_cd).sum(axis=1) * counts_c).sum() / len(labels_n)
    return float((1 - share) * between)


def knn_accuracy(features_nd: Features, labels_n: Labels, neighbours: int) -> float:
    """Return the share of images whose nearest other images vote for the right class.

    Leave-one-out with cosine distance and one vote each, ties to the first class. Where there are
    fewer than ``neighbours`` other images, all of them vote. Raises ``ValueError`` for one image.
    """
    from sklearn.neighbors import NearestNeighbors

    nearest = NearestNeighbors(n_neighbors=min(neighbours, len(labels_n) - 1), metric="cosine")
    # without a query every image's neighbours are found among the others
    places_nk = nearest.fit(features_nd).kneighbors(return_distance=False)
    votes_nc = _one_hot(labels_n)[places_nk].sum(axis=1)
    chosen_n = np.unique(labels_n)[votes_nc.argmax(axis=1)]
    return float((chosen_n == labels_n).mean())
