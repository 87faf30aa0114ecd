"""What the laws of profiles are made of: directions, the angles between them, and numbers to draw."""

import math

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st

#: What rounding may cost a cosine.
EPS = 1e-9
DAY = 86_400
law = settings(deadline=None, max_examples=50)

seeds = st.integers(0, 2**32 - 1)
dimensions = st.sampled_from([2, 3, 5, 16, 64, 384, 768])
shares = st.floats(0, 1)
dislikes = st.floats(-1, 0, exclude_max=True)


def unit(vector):
    return vector / np.linalg.norm(vector)


def angle(a, b):
    a, b = unit(a), unit(b)
    return 2 * math.atan2(np.linalg.norm(a - b), np.linalg.norm(a + b))


@st.composite
def pairs(draw):
    """A profile and an item at any angle between them, of any length."""
    rng = np.random.default_rng(draw(seeds))
    size, theta = draw(dimensions), draw(st.floats(1e-4, math.pi - 1e-4))
    u = unit(rng.normal(size=size))
    w = rng.normal(size=size)
    w = unit(w - (w @ u) * u)
    return u * rng.uniform(0.1, 10), (math.cos(theta) * u + math.sin(theta) * w) * rng.uniform(0.1, 10)
