"""Statistics over seeds: interquartile mean and its bootstrap interval."""

import numpy as np
from scipy import stats


def iqm(values: np.ndarray, axis: int = 0) -> np.ndarray:
    """Interquartile mean: the mean of the middle half of the values (Agarwal et al. 2021, section 4.3).

    Values on the border of that half count with the part of them that lies inside. Trimming whole values only, as
    ``scipy.stats.trim_mean`` does, would trim nothing from three seeds; for multiples of four both are the same.
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


def bootstrap_interval(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """95 % percentile bootstrap interval of the interquartile mean of values of shape (seeds, ...).

    The same resampled seeds serve a whole curve, so that the band of a curve is one of curves, not of separate points;
    they are drawn from the same generator each time, so that a report can be repeated. NaN with a single seed.
    """
    values = np.asarray(values, dtype=np.float64)
    if len(values) < 2:
        return np.full(values.shape[1:], np.nan), np.full(values.shape[1:], np.nan)
    interval = stats.bootstrap((values,), iqm, n_resamples=5000, method="percentile", rng=0).confidence_interval
    return interval.low, interval.high


def not_below(returns: np.ndarray, baseline: np.ndarray) -> bool | None:
    """Whether a mean is at most the standard deviation of a difference of two seeds below another mean.

    That is ``sqrt(std^2 + std_baseline^2)``. None with a single seed on either side, which has no spread.
    """
    if min(len(returns), len(baseline)) < 2:
        return None
    spread = np.hypot(np.std(returns, ddof=1), np.std(baseline, ddof=1))
    return bool(np.mean(returns) - np.mean(baseline) >= -spread)
