"""Finding programs without running them."""

import pytest

from bus.errors import ProgramError
from bus.fleet.program import locate_program


def test_a_path_is_relative_to_the_project(tmp_path):
    (tmp_path / "agents").mkdir()
    (tmp_path / "agents" / "writer.py").write_text("raise SystemExit")

    program = locate_program("agents/writer.py", tmp_path)

    assert program.file == tmp_path / "agents" / "writer.py"
    assert str(program) == "agents/writer.py"


def test_shipped_agents_are_found_from_any_project(tmp_path):
    assert locate_program("agents/echo.py", tmp_path).file.name == "echo.py"


def test_of_a_package_its_agent_module_is_the_program(tmp_path):
    package = tmp_path / "palaver_probe_package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "agent.py").write_text("")

    assert locate_program("palaver_probe_package", tmp_path).module == "palaver_probe_package.agent"


def test_a_module_of_the_project_is_a_program(tmp_path):
    (tmp_path / "palaver_probe_module.py").write_text("raise SystemExit")

    assert locate_program("palaver_probe_module", tmp_path).module == "palaver_probe_module"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("agents/missing.py", "'agents/missing.py', which does not exist"),
        ("palaver_no_such_module", "neither a file, nor a module, nor a package"),
        ("not a name", "expected the path of a Python file or a module name"),
        ("palaver_no_such_package.inner", "neither a file, nor a module, nor a package"),
    ],
)
def test_a_missing_program_is_named(tmp_path, text, message):
    with pytest.raises(ProgramError, match=message):
        locate_program(text, tmp_path)


def test_a_forgotten_suffix_is_pointed_out(tmp_path):
    (tmp_path / "palaver-probe.py").write_text("")
    (tmp_path / "palaver_empty").mkdir()
    (tmp_path / "palaver_empty.py").write_text("")

    with pytest.raises(ProgramError, match="expected the path of a Python file"):
        locate_program("palaver-probe", tmp_path)
