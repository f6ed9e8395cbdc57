"""Whether two sets of feature vectors may come from one distribution: two tests, each exact.

The kernel test takes the whole of both sets, and draws its p-value by permutation. The classifier
test learns on one half what tells them apart, and looks in the other half whether it does.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

if TYPE_CHECKING:
    from sklearn.pipeline import Pipeline

Floats = npt.NDArray[np.floating]

_CELLS = 2**24  # of a block of permutations: 128 MiB in float64
_LEAST = 1e-12  # a permuted statistic counts as reached within so much: sums differ by rounding
_RIDGE = 0.1  # added to the variance 1 of each standardised feature


@dataclass(frozen=True)
class TwoSampleTest:
    """What a test found; ``strangeness_m`` says of each new row how little it is at home."""

    statistic: float  # MMD^2, unbiased, or the classifier's AUC
    p_value: float
    strangeness_m: npt.NDArray[np.float64]
    bandwidth: float | None = None  # of the kernel, in the features' own unit


def kernel_test(
    reference_nd: Floats, new_md: Floats, permutations: int, seed: int
) -> TwoSampleTest:
    """Test by the unbiased MMD^2 with an RBF kernel (Gretton et al. 2012, JMLR 13, lemma 6).

    The bandwidth is the median distance between any two rows of both sets together, which no
    relabelling changes: so all ``permutations`` and the true labelling are equally likely where
    the rows are exchangeable, and p = (1 + those that reach the statistic) / (1 + permutations) is
    never too small (Phipson & Smyth 2010, Stat. Appl. Genet. 9:39). Each set has two rows or more.

    Strangeness is the witness function (Gretton et al. 2012, section 2.3), its sign turned: mean
    kernel with the other new rows less that with the reference. Memory is that of two (n + m, n +
    m) matrices in float64 and of a block of permutations.
    """
    n, m = len(reference_nd), len(new_md)
    pooled = torch.from_numpy(np.concatenate((reference_nd, new_md))).double()
    kernel, bandwidth = _kernel(pooled)
    first = torch.zeros(n + m, 1, dtype=torch.float64)
    first[:n] = 1
    statistic = _mmd2(kernel, first, n)[0]
    reached = sum(
        int((_mmd2(kernel, labels, n) >= statistic - _LEAST).sum())
        for labels in _relabelled(n, m, permutations, seed)
    )
    to_new_m = kernel[n:, n:].sum(1) / (m - 1)
    to_reference_m = kernel[n:, :n].sum(1) / n
    return TwoSampleTest(
        statistic=float(statistic),
        p_value=(1 + reached) / (1 + permutations),
        strangeness_m=(to_new_m - to_reference_m).numpy(),
        bandwidth=bandwidth,
    )


def _kernel(pooled: Tensor) -> tuple[Tensor, float]:
    """Return exp(-d^2 / (2 b^2)) of every two rows, 0 on the diagonal, and b, their median d."""
    distances = torch.cdist(pooled, pooled)
    apart = distances[torch.triu(torch.ones_like(distances, dtype=torch.bool), diagonal=1)]
    median = float(apart.median())
    bandwidth = median if median > 0 else float(apart.mean())  # more than half are copies
    scale = 2 * bandwidth**2 if bandwidth > 0 else 1.0  # nothing but copies: all kernels are 1
    kernel = distances.square_().div_(-scale).exp_()
    kernel.fill_diagonal_(0)
    return kernel, bandwidth


def _mmd2(kernel: Tensor, labels: Tensor, n: int) -> Tensor:
    """Return the unbiased MMD^2 for each column of ``labels`` (rows, b), 1 for the first set."""
    m = len(kernel) - n
    rows = kernel.sum(1)
    within_first = (labels * (kernel @ labels)).sum(0)
    touching_first = rows @ labels  # pairs within the first set count twice
    across = touching_first - within_first
    within_second = rows.sum() - touching_first - across
    return within_first / (n * (n - 1)) + within_second / (m * (m - 1)) - 2 * across / (n * m)


def _relabelled(n: int, m: int, permutations: int, seed: int) -> Iterator[Tensor]:
    """Yield blocks of columns (n + m, b), each with ``n`` ones in random places."""
    draw = np.random.default_rng(seed)
    step = max(1, _CELLS // (n + m))
    for start in range(0, permutations, step):
        block = min(step, permutations - start)
        keys = draw.random((n + m, block))
        first = np.argpartition(keys, n - 1, axis=0)[:n]
        labels = np.zeros((n + m, block))
        np.put_along_axis(labels, first, 1.0, axis=0)
        yield torch.from_numpy(labels)


def classifier_test(reference_nd: Floats, new_md: Floats, seed: int) -> TwoSampleTest:
    """Test by a classifier that is to tell new rows from the reference (Lopez-Paz & Oquab 2017).

    A linear classifier (ridge, on standardised features) learns from a random half of each set; its
    statistic is the AUC on the other half, where its scores are ordered without regard to labels
    if there is nothing to tell: p is that of the Mann-Whitney test, one-sided. AUC, not accuracy,
    because the sets may differ in size. Each set has four rows or more.

    Strangeness is the score of a row as a new one, by the classifier that has not seen it.
    """
    from scipy.stats import mannwhitneyu

    draw = np.random.default_rng(seed)
    halves_n = _half(draw, len(reference_nd))
    halves_m = _half(draw, len(new_md))
    strangeness_m = np.empty(len(new_md))
    held: list[tuple[Floats, Floats]] = []
    for learn in (False, True):
        model = _fit(reference_nd[halves_n == learn], new_md[halves_m == learn])
        scores = model.decision_function(new_md[halves_m != learn])
        strangeness_m[halves_m != learn] = scores
        held.append((scores, model.decision_function(reference_nd[halves_n != learn])))
    theirs, ours = held[0]
    found = mannwhitneyu(theirs, ours, alternative="greater")
    return TwoSampleTest(
        statistic=float(found.statistic) / (len(theirs) * len(ours)),
        p_value=float(found.pvalue),
        strangeness_m=strangeness_m,
    )


def _half(draw: np.random.Generator, n: int) -> npt.NDArray[np.bool_]:
    half_n: npt.NDArray[np.bool_] = draw.permutation(n) < n // 2
    return half_n


def _fit(reference_nd: Floats, new_md: Floats) -> Pipeline:
    from sklearn.linear_model import RidgeClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    rows = np.concatenate((reference_nd, new_md))
    labels = np.repeat((0, 1), (len(reference_nd), len(new_md)))
    ridge = RidgeClassifier(alpha=_RIDGE * len(rows), class_weight="balanced")
    fitted: Pipeline = make_pipeline(StandardScaler(), ridge).fit(rows, labels)
    return fitted
