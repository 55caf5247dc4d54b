"""What is written down of a running fleet."""

import pytest

from bus.errors import FleetError
from bus.fleet.project import Project
from bus.fleet.record import FleetLock, FleetRecord, ProcessRecord, is_running, read_record, write_record


@pytest.fixture
def project(tmp_path):
    project = Project(tmp_path)
    project.prepare()
    return project


RECORD = FleetRecord("newsroom", 17, "ipc:///bus", (ProcessRecord("writer", "writer", 18, "registered", 1),))


def test_a_record_reads_back_as_it_was_written(project):
    write_record(project, RECORD)

    assert read_record(project) == RECORD


def test_without_a_fleet_there_is_no_record_and_nothing_runs(project):
    assert read_record(project) is None
    assert not is_running(project)


def test_a_second_supervisor_is_refused_and_told_of_the_first(project):
    with FleetLock(project):
        write_record(project, RECORD)

        assert is_running(project)
        with pytest.raises(FleetError, match=r"fleet 'newsroom' \(pid 17\)"), FleetLock(project):
            pass


def test_the_end_of_a_fleet_leaves_no_record(project):
    with FleetLock(project):
        write_record(project, RECORD)

    assert read_record(project) is None
    assert not is_running(project)


def test_a_damaged_record_is_named(project):
    (project.state_folder / "fleet.json").write_text("{}")

    with pytest.raises(FleetError, match=r"fleet\.json: expected the record of a running fleet"):
        read_record(project)
