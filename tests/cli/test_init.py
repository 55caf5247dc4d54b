"""``palaver init``: a new project, and nothing overwritten."""

import stat

import pytest

from bus.cli.main import main


def init(folder):
    with pytest.raises(SystemExit) as ended:
        main(["init", str(folder)])
    return ended.value.code


def test_a_new_project_has_the_agents_the_specs_and_its_state_folder(tmp_path):
    assert init(tmp_path / "new") == 0

    assert (tmp_path / "new" / "agents" / "echo.py").is_file()
    assert (tmp_path / "new" / "specs" / "newsroom.protocol.yaml").is_file()
    assert stat.S_IMODE((tmp_path / "new" / ".palaver").stat().st_mode) == 0o700
    assert (tmp_path / "new" / ".gitignore").read_text() == ".palaver/\n"
    assert not list((tmp_path / "new").rglob("__pycache__"))


def test_what_is_there_is_never_overwritten_and_nothing_else_is_copied(tmp_path, capsys):
    (tmp_path / "agents").mkdir()
    (tmp_path / "agents" / "echo.py").write_text("mine")

    assert init(tmp_path) == 1

    assert (tmp_path / "agents" / "echo.py").read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["agents"]
    assert "agents/echo.py" in capsys.readouterr().err
