"""The passes of `improvement.adjusters.planes`, and the flows, as loops that numba compiles.

Each row is summed by itself in one fixed order, so nothing else in a batch can change it. Reassociation is
allowed over D (a compiler may sum in lanes), assumptions about NaN and infinity are not.

A plane is a row of (R, 3) float64: the products x.x, x.g and g.g of a row and its direction. A point of it is
a row of (R, 2) float64: a and b of ``a * x + b * g``; (1, 0) is x itself.

All of it is one file: what was compiled is kept beside it for the next process, until this file changes.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit

#: Squared sine of the angle between a row and its direction below which a row stays: products of float64 do
#: not tell better which way leads to or from a direction 0.0001 rad away, and an error there would multiply.
PARALLEL = 1e-8
#: Exponent at which a row pushed away in a euclidean space stops; the limit of drift is far nearer.
FARTHEST = 50.0

#: Kinds of journey: turn on the sphere, go straight, be drawn to the mean query, or just add g once.
TURN, TRANSLATE, DRAW, SHIFT = 0, 1, 2, 3
#: Squared length of x or g below which, and above whose inverse, float32 may underflow or overflow.
NEAR_ZERO = 1e-20
#: Squared coefficient, in lengths of x, above which what is added nearly cancels.
CANCELLING = 16.0
#: Share of the limit (also of 1) that rounding may take; half of what the adjuster leaves free.
ROUNDING = 1e-6
#: Rows that travel together: few enough that they are still in the processor's cache when they are written.
BLOCK = 256


def _kept(**options: Any) -> Callable[[Any], Any]:
    """Compile on the first call; keep the result on disk, where there is a place for it."""

    def decorate(function: Any) -> Any:
        try:
            return njit(cache=True, nogil=True, error_model="numpy", **options)(function)
        except RuntimeError:  # a read-only installation and no home: compile in every process
            return njit(nogil=True, error_model="numpy", **options)(function)

    return decorate


exact = _kept()
fast = _kept(fastmath={"reassoc", "contract", "nsz", "arcp"})


@exact
def reached(plane, total, kind, on_sphere, time, limit, shortest, longest):
    """Return the points (R, 2) that rows reach.

    Args:
        total: (R,) float64, the sum of each row's weights; for DRAW.
        kind: TURN, TRANSLATE, DRAW or SHIFT.
        on_sphere: whether drift is an angle.
        time: how long the gradient is followed, >= 0.
        limit: most drift, >= 0: radians on the sphere, otherwise a share of the row's length.
        shortest, longest: a row of another length stays where it is: its format measures it badly.
    """
    if kind == TURN:
        return turn(plane, time, limit, shortest, longest)
    if kind == TRANSLATE:
        points = translate(plane, time)
    elif kind == DRAW:
        points = draw(plane, total, time)
    else:
        points = np.ones((len(plane), 2))
    restrain(plane, points, on_sphere, limit, shortest, longest)
    return points


@exact
def turn(plane, time, limit, shortest, longest):
    """Follow the gradient of ``sum(w * cos(x, q))`` on the sphere of x for a time, or until the limit.

    The gradient is the part of ``g = sum(w * q / |q|)`` across x. The row turns along the great circle from x
    to g, its angle to g falling as ``d theta / dt = -|g| sin(theta)``, whose solution is
    ``tan(theta / 2) = tan(theta_0 / 2) exp(-|g| t)``: it never passes g, however long the time. Its length
    stays. A row stays where it is where there is no direction: g zero, parallel or opposite.
    """
    cos_limit, sin_limit = math.cos(min(limit, math.pi)), math.sin(min(limit, math.pi))
    points = np.empty((len(plane), 2))
    for r in range(len(plane)):
        xx, xg, gg = plane[r, 0], plane[r, 1], plane[r, 2]
        points[r, 0], points[r, 1] = 1.0, 0.0
        if not (shortest * shortest <= xx <= longest * longest and gg > 0) or limit == 0:
            continue
        per_size, push = 1 / math.sqrt(xx), math.sqrt(gg)
        cos = xg * per_size / push
        across = 1 - cos * cos
        if across <= PARALLEL:
            continue
        sin = math.sqrt(across)
        half = sin / (1 + cos) * math.exp(-push * time)  # tan of half the angle that is left
        whole = 1 / (1 + half * half)
        cos_left, sin_left = (1 - half * half) * whole, 2 * half * whole
        cos_way, sin_way = cos * cos_left + sin * sin_left, sin * cos_left - cos * sin_left
        if cos_way < cos_limit:
            cos_way, sin_way = cos_limit, sin_limit
        share = sin_way / sin
        points[r, 0] = cos_way - share * cos
        points[r, 1] = share / (per_size * push)
    return points


@exact
def translate(plane, time):
    """Follow the gradient of ``|x_0| sum(w * x.q / |q|)`` for a time; return points.

    Ranking by products ignores how long a query is, so its direction is all that it says; going in lengths of
    x makes the result follow the scale of the vectors.
    """
    points = np.ones((len(plane), 2))
    for r in range(len(plane)):
        points[r, 1] = time * math.sqrt(plane[r, 0])
    return points


@exact
def draw(plane, total, time):
    """Follow the gradient of ``-sum(w * |x - q|**2) / 2`` for a time; return points.

    With ``g = sum(w * q)`` and W, the sum of weights in ``total`` (R,), it is ``g - W x``, so
    ``x(t) = exp(-W t) x + (1 - exp(-W t)) / W g``: clicks draw x toward their mean query, never past it.
    """
    points = np.empty((len(plane), 2))
    for r in range(len(plane)):
        xx, xg, gg, w = plane[r, 0], plane[r, 1], plane[r, 2], total[r]
        points[r, 0], points[r, 1] = 1.0, 0.0
        if gg - 2 * w * xg + w * w * xx <= PARALLEL * (gg + w * w * xx):
            continue  # it is where it is drawn to, or pushed from
        exponent = min(-w * time, FARTHEST)
        points[r, 0] = math.exp(exponent)
        points[r, 1] = -math.expm1(exponent) / w if w != 0 else time
    return points


@exact
def restrain(plane, points, on_sphere, limit, shortest, longest):
    """Pull points, in place, until their drift from x is at most ``limit``, as `base.limit_drift` does.

    On the sphere along the great circle, keeping the point's length; otherwise along the straight line.
    """
    cos_limit, sin_limit = math.cos(min(limit, math.pi)), math.sin(min(limit, math.pi))
    for r in range(len(plane)):
        xx, xg, gg = plane[r, 0], plane[r, 1], plane[r, 2]
        a, b = points[r, 0], points[r, 1]
        size = math.sqrt(xx)
        if not (shortest <= size <= longest) or limit == 0:
            points[r, 0], points[r, 1] = 1.0, 0.0
        elif not on_sphere:
            way = math.sqrt(max(0.0, (a - 1) * (a - 1) * xx + 2 * (a - 1) * b * xg + b * b * gg))
            if way > limit * size:
                share = limit * size / way
                points[r, 0], points[r, 1] = 1 + share * (a - 1), share * b
        elif limit < math.pi:
            length = math.sqrt(max(0.0, a * a * xx + 2 * a * b * xg + b * b * gg))
            width = math.sqrt(max(0.0, gg - xg * xg / xx))  # of g, across x
            if width <= math.sqrt(PARALLEL * gg) or length == 0:
                points[r, 0], points[r, 1] = 1.0, 0.0
            elif a * xx + b * xg < cos_limit * length * size:
                points[r, 1] = math.copysign(sin_limit * length / width, b)
                points[r, 0] = cos_limit * length / size - points[r, 1] * xg / xx


@fast
def squares(rows, answer):
    for r in range(len(rows)):
        total = 0.0
        for d in range(rows.shape[1]):
            total += np.float64(rows[r, d]) * np.float64(rows[r, d])
        answer[r] = total


@fast
def products(rows, table, index, weight, answer):
    for r in range(len(rows)):
        for k in range(index.shape[1]):
            q, total = index[r, k], 0.0
            if weight[r, k] != 0:
                for d in range(rows.shape[1]):
                    total += np.float64(rows[r, d]) * np.float64(table[q, d])
            answer[r, k] = total


@fast
def travel(rows, table, index, weight, total, kind, on_sphere, time, limit, lengths, only_step, narrow, out):
    plane, checksum = np.empty((BLOCK, 3)), 0.0
    for first in range(0, len(rows), BLOCK):
        last = min(first + BLOCK, len(rows))
        x, i, w, o = rows[first:last], index[first:last], weight[first:last], out[first:last]
        p = plane[: last - first]
        measure(x, table, i, w, narrow, p, o)
        for r in range(last - first):
            checksum += p[r, 0] + p[r, 1] + p[r, 2]
        points = reached(p, total[first:last], kind, on_sphere, time, limit, lengths[0], lengths[1])
        if only_step:
            points[:, 0] -= 1.0
        place(x, table, i, w, on_sphere, limit, narrow, p, points, o)
    return checksum


@fast
def measure(rows, table, index, weight, narrow, plane, scratch):
    wide = np.empty((1, rows.shape[1]))
    own = np.empty(index.shape[1], rows.dtype)
    used = np.empty(index.shape[1], np.int64)
    for r in range(len(rows)):
        count = _used(index, weight, r, used, own)
        if count == 1:  # the direction is the query itself: nothing to add up
            w = _only(weight, r)
            _measure(rows, r, table, used[0], plane)
            plane[r, 1] *= w
            plane[r, 2] *= w * w
        elif count == 0:
            _measure(rows, r, rows, r, plane)
            plane[r, 1] = plane[r, 2] = 0.0
        else:
            _add_up(table, used, own, count, scratch, r)
            _measure(rows, r, scratch, r, plane)
            if _is_fragile(plane, r, 1.0, 0.0, narrow):
                _add_up_wide(table, index, weight, r, wide)
                _measure(rows, r, wide, 0, plane)
                for d in range(rows.shape[1]):
                    scratch[r, d] = wide[0, d]


@fast
def place(rows, table, index, weight, on_sphere, limit, narrow, plane, points, out):
    wide = np.empty((1, rows.shape[1]))
    own = np.empty(2, rows.dtype)  # the coefficients in the rows' precision, in which loops are twice as fast
    for r in range(len(rows)):
        a, b = points[r, 0], points[r, 1]
        count, only = 0, 0
        for k in range(index.shape[1]):
            if weight[r, k] != 0:
                count += 1
                only = k
        if b == 0.0 or count == 0:
            own[0] = a
            c = own[0]
            for d in range(rows.shape[1]):
                out[r, d] = c * rows[r, d]
        elif _is_fragile(plane, r, a, b, narrow):
            _add_up_wide(table, index, weight, r, wide)
            for d in range(rows.shape[1]):
                out[r, d] = a * rows[r, d] + b * wide[0, d]
            if limit < np.inf and _has_gone_too_far(rows, r, out, on_sphere, limit):
                for d in range(rows.shape[1]):
                    out[r, d] = rows[r, d]
        elif count == 1:
            own[0], own[1] = a, b * weight[r, only]
            c, s, q = own[0], own[1], index[r, only]
            for d in range(rows.shape[1]):
                out[r, d] = c * rows[r, d] + s * table[q, d]
        else:
            own[0], own[1] = a, b
            c, s = own[0], own[1]
            for d in range(rows.shape[1]):
                out[r, d] = c * rows[r, d] + s * out[r, d]


@fast
def _used(index, weight, r, used, own):
    count = 0
    for k in range(index.shape[1]):
        if weight[r, k] != 0:
            used[count], own[count] = index[r, k], weight[r, k]
            count += 1
    return count


@fast
def _only(weight, r):
    for k in range(weight.shape[1]):
        if weight[r, k] != 0:
            return weight[r, k]
    return 0.0


@fast
def _measure(rows, r, directions, g, plane):
    xx, xg, gg = 0.0, 0.0, 0.0
    for d in range(rows.shape[1]):
        v, u = np.float64(rows[r, d]), np.float64(directions[g, d])
        xx += v * v
        xg += v * u
        gg += u * u
    plane[r, 0], plane[r, 1], plane[r, 2] = xx, xg, gg


@fast
def _add_up(table, used, own, count, scratch, r):
    for d in range(table.shape[1]):
        scratch[r, d] = 0
    k = 0
    while k + 4 <= count:  # four at a time, because reading and writing the sum takes longer than adding
        w0, w1, w2, w3 = own[k], own[k + 1], own[k + 2], own[k + 3]
        q0, q1, q2, q3 = used[k], used[k + 1], used[k + 2], used[k + 3]
        for d in range(table.shape[1]):
            scratch[r, d] += w0 * table[q0, d] + w1 * table[q1, d] + w2 * table[q2, d] + w3 * table[q3, d]
        k += 4
    while k < count:
        w, q = own[k], used[k]
        for d in range(table.shape[1]):
            scratch[r, d] += w * table[q, d]
        k += 1


@fast
def _add_up_wide(table, index, weight, r, wide):
    wide[:] = 0
    for k in range(index.shape[1]):
        w, q = weight[r, k], index[r, k]
        if w != 0:
            for d in range(wide.shape[1]):
                wide[0, d] += w * table[q, d]


@fast
def _is_fragile(plane, r, a, b, narrow):
    """Say whether float32 would show: a narrow plane, cancelling terms, numbers at the format's ends."""
    xx, xg, gg = plane[r, 0], plane[r, 1], plane[r, 2]
    if not (NEAR_ZERO <= xx <= 1 / NEAR_ZERO and NEAR_ZERO <= gg <= 1 / NEAR_ZERO):  # NaN is fragile, too
        return True
    return xx * gg - xg * xg < narrow * xx * gg or a * a > CANCELLING or b * b * gg > CANCELLING * xx


@fast
def _has_gone_too_far(rows, r, out, on_sphere, limit):
    """Measure the drift that a row really has after rounding, in float64."""
    xx, xo, across, away = 0.0, 0.0, 0.0, 0.0
    for d in range(rows.shape[1]):
        v, o = np.float64(rows[r, d]), np.float64(out[r, d])
        xx += v * v
        xo += v * o
    for d in range(rows.shape[1]):
        v, o = np.float64(rows[r, d]), np.float64(out[r, d])
        across += (o - xo / xx * v) ** 2
        away += (o - v) ** 2
    size = np.sqrt(xx)
    drift = np.arctan2(np.sqrt(across), xo / size) if on_sphere else np.sqrt(away) / size
    return not drift <= limit + ROUNDING * (1 + limit)
