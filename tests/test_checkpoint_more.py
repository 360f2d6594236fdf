"""What writing a file leaves behind; oracle: the operating system."""

import os

import pytest

from market_regimes.checkpoint import write_file


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="needs Linux")
def test_a_file_written_leaves_nothing_open_and_nothing_beside_it(tmp_path):
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        write_file(tmp_path / "file", "text")
    assert len(os.listdir("/proc/self/fd")) == before
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
