"""Encoding many texts at once: a process per core.

Threads inside one model are no faster, and on a busy machine many times slower: they wait for each other
after every layer. Processes also make the vectors independent of the number of cores.
"""

import multiprocessing
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor

import numpy as np

from improvement.domain import load_domain
from improvement.objects import Vectors

#: Texts a process encodes at a time; between two such batches the progress moves.
BATCH = 64
#: Most processes; each holds a copy of the model, about half a gigabyte with its libraries.
MOST_PROCESSES = 4


def encode(domain: str, texts: Sequence[str], advance: Callable[[int], object]) -> Vectors:
    """Encode texts with a domain's encoder: (len(texts), D), one row per text, in their order.

    Args:
        domain: a plugin, ``"module:attribute"``; each process loads its own.
        advance: called with the number of texts encoded since the last call.
    """
    # Equal lengths together, or every batch is padded to its longest text.
    order = sorted(range(len(texts)), key=lambda i: -len(texts[i]))
    batches = [order[start : start + BATCH] for start in range(0, len(order), BATCH)]
    rows = np.zeros((len(texts), load_domain(domain).search_index_info.dimensions), np.float32)
    processes = max(1, min(MOST_PROCESSES, os.cpu_count() or 1, len(batches)))
    context = multiprocessing.get_context("spawn")  # forking a process that has threads can deadlock
    with ProcessPoolExecutor(processes, context) as pool:
        jobs = [([texts[i] for i in batch], domain) for batch in batches]
        for batch, vectors in zip(batches, pool.map(_encode, jobs), strict=True):
            rows[batch] = vectors
            advance(len(batch))
    return rows


def _encode(job: tuple[list[str], str]) -> Vectors:
    texts, domain = job
    return load_domain(domain).encoder.encode(texts)
