import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from improvement import encoders
from improvement.domain import Encoder
from improvement.encoders import MiniLMEncoder


@pytest.fixture(scope="module")
def encoder() -> MiniLMEncoder:
    return MiniLMEncoder(batch_size=4)


def test_it_is_an_encoder_of_the_domain_port(encoder):
    assert isinstance(encoder, Encoder)
    assert encoder.model_id == "all-MiniLM-L6-v2"


def test_no_texts_give_no_rows(encoder):
    vectors = encoder.encode([])
    assert vectors.shape == (0, 384)
    assert vectors.dtype == np.float32


def test_rows_are_unit_vectors_in_the_order_of_the_texts(encoder):
    texts = ["short", "a much longer sentence about parsing JSON documents " * 8, "", "sockets", "a cat"]
    vectors = encoder.encode(texts)
    assert vectors.shape == (5, 384)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    one_by_one = np.concatenate([encoder.encode([text]) for text in texts])
    np.testing.assert_allclose(vectors, one_by_one, atol=1e-5)


def test_meaning_is_near_meaning(encoder):
    query, near, far = encoder.encode(["parse a string of JSON", "json.loads deserializes text", "a cat"])
    assert query @ near > query @ far + 0.2


def test_the_same_texts_give_the_same_bits(encoder):
    texts = ["open a file", "open a network connection", "wait"]
    np.testing.assert_array_equal(encoder.encode(texts), MiniLMEncoder(batch_size=4).encode(texts))


def test_threads_that_race_for_the_first_encode_load_one_model_and_agree(encoder):
    expected = encoder.encode(["wait for a thread"])
    encoders._minilm.cache_clear()
    several = [MiniLMEncoder(), MiniLMEncoder()]
    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda n: several[n % 2].encode(["wait for a thread"]), range(32)))
    assert encoders._minilm.cache_info().misses == 1
    assert all(np.array_equal(answer, expected) for answer in answers)


def test_torch_keeps_its_number_of_threads(encoder):
    import torch

    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        encoder.encode(["one"])
        assert torch.get_num_threads() == 2
        with pytest.raises(ValueError):
            encoder.encode([object()])
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_it_is_silent_offline_and_torch_stays_out_until_the_first_encode():
    script = """
        import sys

        def refuse(event, args):
            if event in {"socket.connect", "socket.getaddrinfo"}:
                raise SystemExit(f"network: {event} {args}")

        sys.addaudithook(refuse)
        from improvement.encoders import MiniLMEncoder
        encoder = MiniLMEncoder()
        encoder.encode([])
        assert not {"torch", "transformers", "sentence_transformers"} & set(sys.modules)
        assert encoder.encode(["one", "two"]).shape == (2, 384)
        from transformers.utils import logging
        assert logging.is_progress_bar_enabled()
    """
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
