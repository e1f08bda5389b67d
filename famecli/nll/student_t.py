"""Student's t distribution, to the precision of floats, without scipy."""

import math

SMALLEST = 1e-300
TOLERANCE = 1e-15
MOST_TERMS = 10_000


def two_sided_p(t: float, degrees: int) -> float:
    """Return the probability that a t variable of `degrees` degrees of freedom is as far from 0 as `t`.

    Source: DLMF, 8.17 (incomplete beta function), of `degrees / (degrees + t^2)`.
    """
    beyond, within = degrees / (degrees + t * t), t * t / (degrees + t * t)
    half = 0.5 * degrees
    # The tail whose continued fraction converges fast.
    if beyond < (half + 1.0) / (half + 2.5):
        return _incomplete_beta(half, 0.5, beyond, within)
    return 1.0 - _incomplete_beta(0.5, half, within, beyond)


def two_sided_quantile(p: float, degrees: int) -> float:
    """Return the t with `two_sided_p(t, degrees) == p`, 0 < `p` < 1."""
    low, high = 0.0, 1.0
    while two_sided_p(high, degrees) > p:
        low, high = high, 2.0 * high
    while high - low > TOLERANCE * high:
        middle = 0.5 * (low + high)
        if middle in (low, high):
            break
        low, high = (middle, high) if two_sided_p(middle, degrees) > p else (low, middle)
    return high


def _incomplete_beta(a: float, b: float, x: float, rest: float) -> float:
    """Return the regularised incomplete beta function at `x`; `rest` is 1 - x, without cancellation."""
    if x == 0.0:
        return 0.0
    beta = math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)
    factor = math.exp(a * math.log(x) + b * math.log(rest) - beta) if rest > 0.0 else 0.0
    return factor / (a * _continued_fraction(a, b, x))


def _continued_fraction(a: float, b: float, x: float) -> float:
    """Return `1 + d_1/(1 + d_2/(1 + ...))` of DLMF 8.17.22, by the modified method of Lentz."""
    value, upper, lower = 1.0, 1.0, 0.0
    for number in range(1, MOST_TERMS):
        m, odd = divmod(number, 2)
        if odd:
            numerator = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        else:
            numerator = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        lower = 1.0 / _not_zero(1.0 + numerator * lower)
        upper = _not_zero(1.0 + numerator / upper)
        value *= upper * lower
        if abs(upper * lower - 1.0) < TOLERANCE:
            return value
    raise ArithmeticError(f"no convergence for a = {a}, b = {b}, x = {x}")


def _not_zero(value: float) -> float:
    return value if abs(value) > SMALLEST else SMALLEST
