"""The demo's claims: what holds is said to hold, and nothing else."""

from dataclasses import replace
from pathlib import Path

import pytest

from bus.cli.demo import TOPICS, DemoOptions, demo_fleet, judge, prepare_desk
from bus.cli.demo_scenes import TARGET, OneChat, Story, note_run, note_story
from bus.cli.demo_view import Speech
from bus.errors import FleetError
from bus.fleet.project import Project
from bus.fleet.record import FleetLock

GOOD = Story(
    topic=TOPICS[0],
    outcome="published",
    filed=["xq", "storage"],
    corrected="storage",
    published="storage",
    adapter="sections@1",
    exact_match=[0.1, 0.5, 0.95],
)
ANSWERED = OneChat(answer_before="uh", answer_after=TARGET)


def test_every_claim_holds_where_the_writer_learned() -> None:
    assert all(judge(GOOD, ANSWERED).values())


@pytest.mark.parametrize(
    ("story", "chat"),
    [
        (replace(GOOD, outcome="spiked"), ANSWERED),
        (replace(GOOD, filed=["storage"], corrected=None), ANSWERED),
        (replace(GOOD, filed=["xq", "people", "storage"]), ANSWERED),
        (replace(GOOD, adapter=None), ANSWERED),
        (replace(GOOD, exact_match=[0.6, 0.95]), ANSWERED),
        (replace(GOOD, exact_match=[0.1, 0.85]), ANSWERED),
        (replace(GOOD, exact_match=[0.95]), ANSWERED),
        (GOOD, OneChat("uh", "uh")),
        (GOOD, OneChat(TARGET, TARGET)),
    ],
)
def test_one_thing_amiss_breaks_one_claim(story: Story, chat: OneChat) -> None:
    verdicts = judge(story, chat)

    assert not all(verdicts.values())
    assert sum(not holds for holds in verdicts.values()) <= 2


def test_a_story_is_read_off_its_messages() -> None:
    story = Story("a topic")
    for type, facts in [
        ("Draft", {"section": "xq", "revision": 1}),
        ("Revise", {"comments": "no", "section": "storage"}),
        ("Draft", {"section": "storage", "revision": 2}),
        ("Published", {"section": "storage", "headline": "", "body": ""}),
    ]:
        note_story(story, Speech("a", ("b",), type, facts))

    assert (story.filed, story.corrected, story.published) == (["xq", "storage"], "storage", "storage")


def test_accuracy_and_losses_are_read_off_the_runs_messages() -> None:
    story = Story("a topic")
    for type, facts in [
        ("Evaluated", {"scores": [{"variant": "base", "metrics": {"exact_match": 0.0}}]}),
        ("Checkpoint", {"metrics": {"loss": 2.0}}),
        (
            "Evaluated",
            {
                "scores": [
                    {"variant": "base", "metrics": {"exact_match": 0.0}},
                    {"variant": "tuned", "metrics": {"exact_match": 0.97}},
                ]
            },
        ),
        ("Trained", {"metrics": {"loss": 0.5}, "adapter": "sections@1"}),
    ]:
        note_run(story, Speech("a", ("b",), type, facts))

    assert (story.exact_match, story.losses, story.adapter) == ([0.0, 0.97], [2.0], "sections@1")


def test_the_demos_fleet_has_the_shipped_agents_and_a_desk_of_its_own(tmp_path: Path) -> None:
    options = DemoOptions(
        scripted=True, seed=3, base="tiny-gemma3", docs=tmp_path, root=tmp_path / "demo", models=tmp_path / "models"
    )
    prepare_desk(options)

    fleet = demo_fleet(options)

    settings = {agent.name: agent.settings for agent in fleet.agents}
    assert [name for name, _, _ in fleet.processes()] == ["researcher", "summarizer", "writer", "editor", "trainer"]
    assert settings["writer"]["digests"] == settings["editor"]["digests"] == str(options.desk / "sections.train.jsonl")
    assert settings["trainer"]["models"] == str(tmp_path / "models")


def test_a_demo_does_not_sweep_another_away(tmp_path: Path) -> None:
    options = DemoOptions(
        scripted=True, seed=3, base="tiny-gemma3", docs=tmp_path, root=tmp_path / "demo", models=tmp_path / "models"
    )
    prepare_desk(options)
    project = Project(options.root)
    project.prepare()

    with FleetLock(project), pytest.raises(FleetError, match="running demo"):
        prepare_desk(options)

    assert options.desk.exists()


def test_without_a_script_the_editor_is_a_person_and_no_process(tmp_path: Path) -> None:
    options = DemoOptions(
        scripted=False, seed=3, base="tiny-gemma3", docs=tmp_path, root=tmp_path / "demo", models=tmp_path / "models"
    )

    fleet = demo_fleet(options)

    assert "editor" not in [name for name, _, _ in fleet.processes()]
