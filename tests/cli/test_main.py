"""The command line itself: what it loads, how it ends."""

import json
import subprocess
import sys

import pytest

import bus
from bus.cli.main import GROUPS, describe_error, main
from bus.errors import NotAllowed, Refused

ALLOWED = [{"type": "Ask", "to": ["worker"], "fields": {"n": "int, min 1"}}]


def run(capsys, *arguments):
    """Return (exit code, standard output, standard error) of a command line."""
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    out, err = capsys.readouterr()
    return ended.value.code, out, err


def test_help_names_every_command_and_exit_code(capsys):
    code, out, _ = run(capsys, "--help")

    assert code == 0
    assert all(command in out for _, commands in GROUPS.values() for command in commands)
    assert "no broker answers" in out


def test_the_version_is_shown(capsys):
    assert run(capsys, "--version") == (0, f"palaver {bus.__version__}\n", "")


def test_a_mistyped_command_is_a_usage_error_with_the_nearest(capsys):
    code, _, err = run(capsys, "statsu")

    assert code == 2
    assert "status" in err


@pytest.mark.parametrize(
    "command",
    [
        "status",
        "conversations",
        "inbox",
        "runs",
        "adapters",
        "cancel ab",
        "dead",
        "dead drop ab",
        "send echo {}",
        "generate hello",
        "answer ab",
    ],
)
def test_without_a_broker_commands_say_at_once_what_to_do_and_exit_with_3(capsys, tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)

    code, out, err = run(capsys, *command.split())

    assert (code, out) == (3, "")
    assert err.startswith("palaver: no broker listens at ipc://")
    assert "`palaver up`" in err


@pytest.mark.slow
def test_the_doctor_only_warns_of_a_missing_broker(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    code, out, _ = run(capsys, "doctor", "--json")

    verdicts = {one["check"]: one["verdict"] for one in json.loads(out)}
    assert code == 0
    assert verdicts["broker"] == "warn"
    assert {"python", "packages", "state folder", "unix sockets"} <= {
        name for name, one in verdicts.items() if one == "ok"
    }


def test_an_error_is_one_clean_message(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    code, out, err = run(capsys, "send", "ecco", "{}")

    assert (code, out) == (1, "")
    assert err.startswith("palaver: ecco.protocol.yaml:1:1: E-UNKNOWN-PROTOCOL: expected the name of a protocol")
    assert "did you mean 'echo'?" in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    "error",
    [
        NotAllowed("client may not send 'Bye' now", ALLOWED),
        Refused("client may not send", {"message": "'Bye' now", "allowed": ALLOWED}),
    ],
)
def test_a_refusal_of_order_lists_what_is_allowed_with_its_fields(error):
    assert describe_error(error).splitlines() == [f"palaver: {error}", "  Ask to worker {n: int, min 1}"]


@pytest.mark.parametrize("mode", ["echo", "echo=strict", "=off"])
def test_a_mode_that_there_is_not_is_a_usage_error(capsys, tmp_path, monkeypatch, mode):
    monkeypatch.chdir(tmp_path)

    code, _, err = run(capsys, "broker", "--mode", mode)

    assert code == 2
    assert "--mode" in err


@pytest.mark.slow
def test_launching_loads_neither_torch_nor_tables_nor_the_broker():
    heavy = {"torch", "transformers", "bus.cli.output", "bus.broker.broker"}
    text = f"import sys, bus.cli.launching; print(sorted({heavy} & set(sys.modules)))"

    out = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, timeout=30, check=True)

    assert out.stdout.strip() == "[]"
