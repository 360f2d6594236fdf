"""The command ``sanity``: its exit code says whether the scaling works."""

import pytest

from train_model_multi_patch import main


@pytest.mark.parametrize(("flag", "code"), [("true", None), ("false", 1)])
def test_sanity_says_whether_the_scaling_works(tmp_path, capsys, flag, code):
    arguments = ["sanity", f"--run.out={tmp_path}", f"--algorithm.use_variance_gradient_scaling={flag}"]
    if code is None:
        main([*arguments, "--run.progress_bar=false"])
    else:
        with pytest.raises(SystemExit) as stop:
            main([*arguments, "--run.progress_bar=false"])
        assert stop.value.code == code
    printed = capsys.readouterr().out

    assert ("NO" in printed) == (code == 1)
    assert ("4 of 4" in printed) == (code is None)
