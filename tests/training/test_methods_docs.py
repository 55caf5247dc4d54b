"""Holds the orders shown in docs/training.md under "Ways to train" to what the service does with them."""

import re
from pathlib import Path

import pytest
import yaml
from colors import CPU, color_rows, write_rows

from training_service.desk import Desk
from training_service.event import Prepared, Report, Trained
from training_service.plan import plan_of
from training_service.request import load_training
from training_service.run import Places
from training_service.slots import Slots

DOCS = (Path(__file__).parents[2] / "docs" / "training.md").read_text(encoding="utf-8")
SECTION = DOCS.partition("\n## Ways to train\n")[2].partition("\n## ")[0]
ORDERS = {
    order["training"]: order for order in map(yaml.safe_load, re.findall(r"```yaml\n(.*?)```", SECTION, re.DOTALL))
}


def test_section_shows_nothing_but_orders() -> None:
    assert len(ORDERS) == SECTION.count("```") / 2 == 3


@pytest.mark.slow
@pytest.mark.parametrize("name", ORDERS)
def test_order_shown_is_carried_out(name: str, tiny: Path, slots: Slots, places: Places, tmp_path: Path) -> None:
    order = ORDERS[name] | {"base": str(tiny)}
    (tmp_path / "data").mkdir()
    rows = color_rows()
    if order.get("objective") == "dpo":
        rows = [{"prompt": row["messages"][0]["content"], "chosen": "red", "rejected": "blue"} for row in rows]  # type: ignore[index]
    write_rows(tmp_path / order["dataset"], rows)
    task_id = "7c0d0c05-0d3c-4b4f-8a83-5f1c1e0b7a10"
    request = load_training(order, folder=tmp_path, task_id=task_id)
    said: list[Report] = []
    desk = Desk(slots, places, device=CPU, report=said.append)

    assert plan_of(request, 24).steps == order["max_steps"]
    prepared = desk.prepare(request.model_copy(update={"max_steps": 2}), None)
    desk.runs.start(task_id)
    while not desk.is_idle:
        desk.work()

    assert isinstance(prepared, Prepared)
    assert isinstance(said[-1], Trained)
