import textwrap

import numpy as np

from demo.encoding import BATCH, encode

PLUGIN = """
    import numpy as np

    from improvement.adjusters.torch_based import TorchBasedAdjuster
    from improvement.domain import SearchDomain, SearchIndexInfo


    class Lengths:
        model_id = "lengths"

        def encode(self, texts):
            return np.array([[len(text), 1] for text in texts], np.float32)


    info = SearchIndexInfo(dimensions=2)
    domain = SearchDomain("lengths", info, TorchBasedAdjuster(info), Lengths())
"""


def test_many_processes_give_every_text_its_own_row(tmp_path, monkeypatch):
    (tmp_path / "lengths_plugin.py").write_text(textwrap.dedent(PLUGIN))
    monkeypatch.syspath_prepend(tmp_path)
    texts = ["x" * (n * 37 % 101) for n in range(3 * BATCH + 5)]
    steps: list[int] = []
    rows = encode("lengths_plugin:domain", texts, steps.append)
    np.testing.assert_array_equal(rows, np.array([[len(text), 1] for text in texts], np.float32))
    assert rows.dtype == np.float32
    assert sum(steps) == len(texts)
    assert len(steps) == 4
