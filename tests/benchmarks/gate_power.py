"""How often the gate is wrong, and how often it finds what is there.

Run as ``uv run python -m tests.benchmarks.gate_power`` from the repository's root: it prints
Markdown tables and writes the power curves to ``--plot``. False promotions of null retrains are
counted (``null_retrains.py``), of the accuracy beside the exact chance; power is exact.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from tasks.evaluationconfig import PromotionConfig
from tasks.register.power import chance, detectable, non_inferior_wins, superior_wins
from tests.benchmarks.null_retrains import Recipe, counted_promotions, promotions, true_loss

SIZES = (100, 1_000, 10_000)
SHARES = (0.02, 0.1, 0.3)
GAINS = (0.0, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05)
RESAMPLED = ("balanced_accuracy", "macro_f1", "log_loss", "brier")
RECIPES = {
    "100 images, 3 equal classes": Recipe(100, 3),
    "100 images, 10 classes, the rarest of 2": Recipe(100, 10, rarest=0.1),
    "300 images, 10 classes, the rarest of 5": Recipe(300, 10, rarest=0.1),
}
HANDICAP = 0.12  # makes the first of a pair worse by about two points
MARGIN = 0.01


def main() -> None:
    """Print every table and write the plot."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--retrains", type=int, default=1000, help="of what is resampled")
    parser.add_argument("--counted", type=int, default=100_000, help="of the accuracy")
    parser.add_argument("--alpha", type=float, default=0.05)
    parser.add_argument("--plot", type=Path, default=Path("docs/gate_power.png"))
    given = parser.parse_args()
    plot(given.alpha, given.plot)
    heading = ("test images", *(f"{share:.0%} told apart" for share in SHARES))
    for rule, gain in (("superiority", 0.0), ("non_inferiority", -MARGIN)):
        print(f"\n### False promotions by {rule} of the accuracy, counted (exact)\n")
        show(heading, false_rates(rule, gain, given.alpha, given.counted))
    heading = ("null retrains", *RESAMPLED)
    for rule in ("superiority", "non_inferiority"):
        print(f"\n### False promotions by {rule}, resampled\n")
        show(heading, resampled_rates(rule, given.alpha, given.retrains))
    print("\n### Chance of promotion by a true gain, 10% of the images told apart\n")
    show(
        ("rule", "test images", *(f"{100 * gain:g} points" for gain in GAINS)), powers(given.alpha)
    )
    print("\n### Smallest gain shown in 80% of cases\n")
    show(
        ("rule", "test images", *(f"{s:.0%} told apart" for s in SHARES)), detectables(given.alpha)
    )


def show(heading: Sequence[str], rows: Iterator[Sequence[str]]) -> None:
    """Print a table, each row as soon as it is there."""
    print("| " + " | ".join(heading) + " |\n|" + " --- |" * len(heading))
    for row in rows:
        print("| " + " | ".join(row) + " |", flush=True)


def region(rule: str, n: int, alpha: float) -> np.ndarray:
    """Return the least wins that ``rule`` promotes, by the images told apart."""
    superior = rule == "superiority"
    return superior_wins(n, alpha) if superior else non_inferior_wins(n, MARGIN, alpha / 2)


def false_rates(rule: str, gain: float, alpha: float, retrains: int) -> Iterator[Sequence[str]]:
    """Yield a row for each size: the rate counted, and the exact chance."""
    for n in SIZES:
        least = region(rule, n, alpha)
        rates = (
            (counted_promotions(least, gain, share, retrains, n) / retrains, share)
            for share in SHARES
        )
        yield f"{n:,}", *(f"{rate:.2%} ({chance(least, gain, s):.2%})" for rate, s in rates)


def resampled_rates(rule: str, alpha: float, retrains: int) -> Iterator[Sequence[str]]:
    """Yield a row for each recipe; by non-inferiority the margin is what the first is worse by."""
    for name, recipe in RECIPES.items():
        row = [name]
        for metric in RESAMPLED:
            settings, handicap = PromotionConfig(metric=metric, alpha=alpha), 0.0
            if rule == "non_inferiority":
                handicap, margin = HANDICAP, true_loss(recipe, HANDICAP, metric)
                settings = settings.model_copy(update={"rule": rule, "margin": margin})
            count = promotions(recipe, settings, retrains, 1, handicap)
            row.append(f"{count / retrains:.1%}")
        yield row


def powers(alpha: float) -> Iterator[Sequence[str]]:
    """Yield the exact chance of promotion, a row for each rule and size."""
    for rule in ("superiority", "non_inferiority"):
        for n in (*SIZES, 100_000):
            least = region(rule, n, alpha)
            yield rule, f"{n:,}", *(f"{chance(least, gain, 0.1):.1%}" for gain in GAINS)


def detectables(alpha: float) -> Iterator[Sequence[str]]:
    """Yield the smallest gain that is shown, a row for each rule and size."""
    for rule, lowest in (("superiority", 0.0), ("non_inferiority", -MARGIN)):
        for n in (*SIZES, 100_000):
            least = region(rule, n, alpha)
            found = (detectable(least, share, lowest) for share in SHARES)
            yield rule, f"{n:,}", *("none" if g is None else f"{100 * g:+.2f}" for g in found)


def plot(alpha: float, path: Path) -> None:
    """Draw the chance of promotion over the true gain, a line for each size."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), dpi=150, layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    gains = np.linspace(-0.04, 0.06, 101)
    for axis, rule in zip(axes, ("superiority", "non_inferiority"), strict=True):
        for n in (100, 300, 1_000, 3_000, 10_000):
            least = region(rule, n, alpha)
            axis.plot(100 * gains, [chance(least, gain, 0.1) for gain in gains], label=f"{n:,}")
        worst = 0.0 if rule == "superiority" else -100 * MARGIN
        axis.axvline(worst, color="0.6", linewidth=0.8)
        axis.axhline(alpha / 2, color="0.6", linewidth=0.8, linestyle=":")
        margin = "" if rule == "superiority" else f", margin {100 * MARGIN:g} point"
        axis.set(title=rule.replace("_", "-") + margin, xlabel="true gain in accuracy, points")
    axes[0].set(ylabel="chance of promotion")
    axes[1].legend(title="test images", frameon=False)
    figure.savefig(path)


if __name__ == "__main__":
    main()
