"""Statistics over seeds: interquartile mean and its bootstrap interval."""

from __future__ import annotations

import numpy as np


def iqm(values: np.ndarray, axis: int = 0) -> np.ndarray:
    """Interquartile mean: the mean of the middle half of the values (Agarwal et al. 2021, section 4.3).

    Values on the border of that half count with the part of them that lies inside. Trimming whole values only, as
    ``scipy.stats.trim_mean`` does, would trim nothing from three seeds; for multiples of four both are the same.

    :param axis: Axis of the seeds
    :raises ValueError: If there is no value, or one is NaN or infinite
    """
    values = np.moveaxis(np.asarray(values, dtype=np.float64), axis, -1)
    count = values.shape[-1]
    if count == 0:
        raise ValueError("iqm needs at least one value along the axis of the seeds, got none")
    if not np.isfinite(values).all():
        raise ValueError("iqm needs finite values, got NaN or infinity: a run has diverged or is incomplete")
    # The k-th of n sorted values stands for the quantiles from k/n to (k+1)/n.
    inside = np.clip(np.arange(count + 1) / count, 0.25, 0.75)
    return np.sort(values, axis=-1) @ np.diff(inside) * 2.0


def bootstrap_interval(
    values: np.ndarray, confidence: float = 0.95, resamples: int = 5000, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Percentile bootstrap interval of the interquartile mean over seeds.

    The same resampled seeds serve a whole curve, so that the band of a curve is one of curves, not of separate points.

    :param values: Array of shape (seeds, ...)
    :param seed: Of the resampling, so that a report can be repeated
    :return: Lower and upper end, each of shape (...); NaN with a single seed, which says nothing about the spread
    :raises ValueError: If ``confidence`` is outside (0, 1)
    """
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"confidence={confidence} must be between 0 and 1, such as 0.95")
    values = np.asarray(values, dtype=np.float64)
    count = len(values)
    if count < 2:
        nothing = np.full(values.shape[1:], np.nan)
        return nothing, nothing
    index = np.random.default_rng(seed).integers(count, size=(resamples, count))
    tail = (1.0 - confidence) / 2.0
    low, high = np.quantile(iqm(values[index], axis=1), [tail, 1.0 - tail], axis=0)
    return low, high


def not_below(returns: np.ndarray, baseline: np.ndarray) -> bool | None:
    """Whether results are not below others by more than the seeds' spread.

    :return: Whether the difference of the means is above minus the standard deviation of a difference of two seeds,
        ``sqrt(std^2 + std_baseline^2)``; None with a single seed on either side, which has no spread
    """
    if min(len(returns), len(baseline)) < 2:
        return None
    spread = np.hypot(np.std(returns, ddof=1), np.std(baseline, ddof=1))
    return bool(np.mean(returns) - np.mean(baseline) >= -spread)
