"""The compiled loops, where nothing can be kept on disk."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]


def test_where_no_place_can_be_written_the_loops_are_compiled_all_the_same():
    code = (
        "import numba.core.caching as caching, numpy as np\n"
        "for name in ('CacheImpl', 'CompileResultCacheImpl'):\n"
        "    getattr(caching, name)._locator_classes = []\n"  # neither beside the module nor at home
        "from improvement.adjusters.compiled import squares\n"
        "answer = np.empty(1)\n"
        "squares(np.array([[3.0, 4.0]]), answer)\n"
        "assert answer[0] == 25.0\n"
        "assert type(squares._cache).__name__ == 'NullCache'\n"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
