"""Where a project keeps its state and where its broker listens."""

import os
import stat

import pytest

from bus.errors import FleetError
from bus.fleet.project import SOCKET_PATH_BYTES, Project, find_address, find_project, make_private


def test_the_nearest_folder_with_state_is_the_project(tmp_path):
    (tmp_path / ".palaver").mkdir()
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)

    assert find_project(inner) == Project(tmp_path.resolve())


def test_without_state_the_folder_itself_is_the_project(tmp_path):
    assert find_project(tmp_path).root == tmp_path.resolve()


def test_the_address_is_a_socket_in_the_state_folder(tmp_path):
    project = Project(tmp_path)

    assert project.address({}) == f"ipc://{tmp_path.resolve()}/.palaver/bus.sock"


def test_the_state_folder_is_private_even_if_it_was_not(tmp_path):
    project = Project(tmp_path)
    project.state_folder.mkdir(mode=0o755)

    project.prepare()

    assert stat.S_IMODE(project.state_folder.stat().st_mode) == 0o700
    assert stat.S_IMODE(project.logs.stat().st_mode) == 0o700


def test_a_path_too_long_for_a_socket_gets_a_short_one_that_is_always_the_same(tmp_path):
    deep = tmp_path / ("d" * 100)
    deep.mkdir()
    environment = {"XDG_RUNTIME_DIR": str(tmp_path)}

    address = Project(deep).prepare_address(environment)

    assert address == Project(deep).address(environment)
    assert len(os.fsencode(address.removeprefix("ipc://"))) <= SOCKET_PATH_BYTES
    assert (deep / ".palaver" / "address").read_text() == f"{address}\n"
    assert stat.S_IMODE((tmp_path / "palaver").stat().st_mode) == 0o700


def test_two_projects_never_share_a_short_address(tmp_path):
    one, other = Project(tmp_path / ("a" * 110)), Project(tmp_path / ("b" * 110))

    assert one.address({}) != other.address({})


def test_a_short_address_is_forgotten_once_the_own_one_fits(tmp_path):
    project = Project(tmp_path)
    project.prepare()
    (project.state_folder / "address").write_text("ipc:///elsewhere\n")

    project.prepare_address({})

    assert not (project.state_folder / "address").exists()


@pytest.mark.parametrize(
    ("given", "environment", "expected"),
    [
        ("ipc:///given", {"PALAVER_BUS": "ipc:///named"}, "ipc:///given"),
        (None, {"PALAVER_BUS": "ipc:///named"}, "ipc:///named"),
    ],
)
def test_the_option_wins_over_the_variable(tmp_path, given, environment, expected):
    assert find_address(Project(tmp_path), given, environment) == expected


def test_a_private_folder_that_is_a_link_is_refused(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")

    with pytest.raises(FleetError, match="expected a folder of yours"):
        make_private(tmp_path / "link")


def test_a_private_folder_below_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("")

    with pytest.raises(FleetError, match="expected a folder that can be made"):
        make_private(tmp_path / "file" / "inner")
