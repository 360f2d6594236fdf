"""What takes long shows on a terminal that it goes on; elsewhere, and where it is not wanted, nothing is written."""

import io
import sys

import pytest

from market_regimes.commands.progress import working
from train_model_multi_patch import main

QUICK = ["--run.total_timesteps=64", "--run.n_envs=2", "--run.eval_every=64", "--run.progress_bar=false"]
QUICK += ["--algorithm.n_steps=32", "--algorithm.batch_size=64", "--algorithm.n_epochs=1", "--market.episode_bars=60"]


class Terminal(io.StringIO):
    """Standard error of a terminal."""

    def isatty(self):
        return True


def on_terminal(monkeypatch):
    """Called within the test: pytest sets standard error anew after the fixtures."""
    monkeypatch.setenv("TERM", "xterm")
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    found = Terminal()
    monkeypatch.setattr(sys, "stderr", found)
    return found


def test_a_terminal_shows_what_is_done_and_loses_it_at_the_end(monkeypatch):
    terminal = on_terminal(monkeypatch)
    with working("reading") as tell:
        assert "reading" in terminal.getvalue()
        assert "0:00:0" in terminal.getvalue()
        tell("writing [red]")

    shown = terminal.getvalue()

    assert "writing [red]" in shown
    assert shown.endswith("\x1b[2K")  # the line is erased


@pytest.mark.parametrize(("stream", "wanted"), [(io.StringIO, True), (Terminal, False), (io.StringIO, False)])
def test_nothing_is_written_elsewhere(monkeypatch, stream, wanted):
    found = stream()
    monkeypatch.setattr(sys, "stderr", found)
    with working("reading", wanted) as tell:
        tell("writing")

    assert found.getvalue() == ""


def test_an_error_within_ends_it_and_is_passed_on(monkeypatch):
    terminal = on_terminal(monkeypatch)

    with pytest.raises(ValueError, match="bad"), working("reading"):
        raise ValueError("bad")

    with working("again"):  # only one may be shown at a time
        pass

    assert "again" in terminal.getvalue()


def test_commands_that_take_long_show_what_they_do(tmp_path, make_prices, capsys, monkeypatch):
    terminal = on_terminal(monkeypatch)
    make_prices(400).to_csv(tmp_path / "p.csv", index=False)
    monkeypatch.setattr("market_regimes.run.agent.export_onnx", lambda *arguments: arguments[-1].with_suffix(".json"))
    main([*QUICK, f"--market.data={tmp_path / 'p.csv'}", f"--run.out={tmp_path}", "--run.name=x"])
    folder = str(tmp_path / "x")

    assert terminal.getvalue() == ""  # run.progress_bar=false

    data = ["--data", str(tmp_path / "p.csv")]

    for arguments, words in (
        (["evaluate", folder], "tables, pictures, tear sheet"),
        (["evaluate", folder, *data], "the rules trade the same bars"),
        (["export", folder], "writing"),
    ):
        terminal.truncate(0)
        main(arguments)
        assert words in terminal.getvalue()
        terminal.truncate(0)
        main([*arguments, "--progress_bar=false"])
        assert terminal.getvalue() == ""

    main([*QUICK[:-4], "--run.progress_bar=true", *QUICK[4:], f"--market.data={data[1]}", f"--run.out={tmp_path}"])

    assert "tables, pictures, tear sheet" in terminal.getvalue()
    assert "⠋" not in capsys.readouterr().out


@pytest.mark.parametrize("wanted", [True, False])
def test_a_search_shows_its_trials(tmp_path, make_prices, monkeypatch, wanted):
    """While it runs: what was shown by then is read where the trials would be trained."""
    pytest.importorskip("optuna")
    terminal = on_terminal(monkeypatch)
    shown = []

    def stop(search, text):
        shown.append(terminal.getvalue())
        raise ValueError("enough")

    monkeypatch.setattr("market_regimes.commands.tune.run_search", stop)
    make_prices(900).to_csv(tmp_path / "p.csv", index=False)
    flags = [f"--market.data={tmp_path / 'p.csv'}", f"--run.out={tmp_path}", "--run.name=s", "--validation_years=1"]
    flags += ["--trials=7", "--space={algorithm.gamma: [0.9]}", f"--run.progress_bar={str(wanted).lower()}"]

    with pytest.raises(SystemExit):
        main(["tune", *flags])

    assert ["7 trials" in text for text in shown] == [wanted]
    assert terminal.getvalue().splitlines()[-1].endswith("error: enough")
