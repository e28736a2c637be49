"""What the report says of tasks: figures beside baselines, classes, mistakes, stages, leaks."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from class_runs import BASELINES, CLASSES, LABELS, PREDICTED, figures, make_class_run
from report_runs import METRICS, Reader, make_run, svg_texts

from pipeline.config import TrainPlan
from pipeline.report.mistakes import OTHERS, folded
from pipeline.report.page import render
from pipeline.report.results import stages_to

TRUE, NAMED = ([CLASSES[c] for c in column] for column in (LABELS, PREDICTED))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make_class_run(tmp_path)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    return render(make_class_run(tmp_path_factory.mktemp("classes")))


def section(html: str, title: str) -> str:
    """The part of a page under a heading of the second level."""
    (found,) = [part for part in html.split("<section>") if f"<h2>{title}</h2>" in part]
    return found


def change_task(run: Path, task: str, **changes: Any) -> None:
    metrics = json.loads((run / "metrics.json").read_text())
    metrics["tasks"][task] |= changes
    (run / "metrics.json").write_text(json.dumps(metrics))


def table_rows(html: str, first: str) -> dict[str, list[str]]:
    """Rows of the tables whose header begins with a word: first cell -> the others."""
    rows: dict[str, list[str]] = {}
    for table in re.findall(r"<table>.*?</table>", html, re.DOTALL):
        cells = [[" ".join(cell.split()) for cell in row] for row in Reader(table).rows]
        if cells[0][0] == first:
            rows |= {row[0]: row[1:] for row in cells[1:]}
    return rows


def test_the_headline_and_the_overview_hold_every_task(page: str) -> None:
    assert "accuracy 0.700 on topic (best baseline: tfidf_neighbours 0.660); macro F1" in Reader(page).text
    rows = table_rows(page, "task")
    assert rows["topic"] == ["accuracy", "0.610 tfidf", "0.440 graph", "0.660 tfidf_neighbours", "0.700"]
    assert rows["kind"][0] == "macro F1"


def test_the_table_of_figures_holds_those_of_all_methods(page: str) -> None:
    rows = table_rows(section(page, "Result: topic"), "method")
    ours = figures(TRUE, NAMED, CLASSES)
    assert rows["LM-GNN"] == [f"{ours['accuracy']:.3f}", f"{ours['macro_f1']:.3f}", ""]
    for name, values in BASELINES.items():
        (row,) = [cells for method, cells in rows.items() if method.split()[0] == name]
        gain = f"{ours['accuracy'] - values['accuracy']:+.3f}"
        assert row == [f"{values['accuracy']:.3f}", f"{values['macro_f1']:.3f}", gain]
    assert any("C = 0.1 on validation" in method for method in rows)


def test_every_class_stands_beside_its_support_and_the_best_baseline_that_knows_it(page: str) -> None:
    rows = table_rows(section(page, "Result: topic"), "class")
    ours, support = figures(TRUE, NAMED, CLASSES), Counter(TRUE)
    for name in CLASSES:
        assert rows[name][:2] == [str(support[name]), f"{ours[f'f1/{name}']:.3f}"]
    assert [rows[name][2] for name in CLASSES] == ["0.600", "0.750", "–"]


def test_of_many_classes_the_worst_and_the_best_are_shown_and_all_are_folded_away(run: Path) -> None:
    values = {f"f1/class {n:02}": n / 100 for n in range(30)}
    change_task(run, "topic", test_metrics={"accuracy": 0.7, **values})
    html = section(render(run), "Result: topic")
    shown, _, hidden = html.partition("<details>")
    names = re.findall(r"<td>(class \d\d)</td>", shown)
    assert names == [f"class {n:02}" for n in [*range(10), *range(29, 19, -1)]]
    assert len(re.findall(r"<td>class \d\d</td>", hidden.partition("</details>")[0])) == 30


def test_the_heat_map_counts_test_rows_by_true_and_predicted_class(page: str) -> None:
    counts = Counter(zip(TRUE, NAMED, strict=True))
    written = re.findall(r"\b\d+\b", svg_texts(section(page, "Result: kind"), "confusion-kind"))
    assert sorted(map(int, written)) == sorted(counts.values())


def test_rare_classes_are_folded_into_one_row_and_column() -> None:
    pairs = {("a", "a"): 5, ("b", "a"): 3, ("b", "c"): 1, ("c", "b"): 2, ("d", "c"): 1, ("a", "e"): 1}
    classes, counts = folded(pairs, 3)
    assert classes == ("a", "b", OTHERS)
    assert counts == ((5, 0, 1), (3, 0, 1), (0, 2, 1))


def test_wrong_predictions_come_with_their_texts_and_the_surest_first(page: str) -> None:
    text = Reader(section(page, "Result: topic")).text
    assert re.findall(r"(\d) is (\S+) LM-GNN says (\S+) with probability (0\.\d+)", text) == [
        ("7", "data", "web", "0.950"),
        ("8", "<b>games</b>", "web", "0.650"),
        ("4", "web", "data", "0.550"),
    ]
    assert text.count("text of") == 3
    edges = Reader(section(page, "Result: kind")).text
    assert "7 → 4 is data" in edges
    assert edges.count("text of") == 6
    assert "<i>x</i>" not in page
    assert "<b>games" not in page


def test_predictions_without_tables_show_ids_alone_and_say_why(run: Path) -> None:
    (run.parent / "graph" / "package.csv").unlink()
    text = Reader(render(run)).text
    assert "Texts of wrong predictions could not be read, ids stand alone: package.csv" in text
    assert "7 is data LM-GNN says web" in text


def test_predictions_that_cannot_be_read_are_named(run: Path) -> None:
    (run / "export" / "topic" / "predictions" / "part-1.parquet").write_bytes(b"no parquet")
    html = render(run)
    assert "Predictions of topic could not be read" in Reader(html).text
    assert table_rows(section(html, "Result: topic"), "class")["web"][0] == "–"


def test_what_each_stage_added_follows_the_models_that_stages_began_with(page: str) -> None:
    topic = table_rows(section(page, "Result: topic"), "stage")
    assert {name: (row[1], row[3], row[4]) for name, row in topic.items()} == {
        "1. words": ("held-out loss", "3.500", ""),
        "2. topic_lm": ("validation accuracy", "0.500", ""),
        "3. topic_warm": ("validation accuracy", "0.750", "+0.250"),
        "4. topic_joint": ("validation accuracy", "0.800", "+0.050"),
    }
    kind = table_rows(section(page, "Result: kind"), "stage")
    assert list(kind) == ["1. words", "2. topic_lm", "3. kind_warm"]
    assert kind["2. topic_lm"][1] == "validation accuracy of topic"


def test_the_chain_of_stages_ends_where_it_began_with_another_run(run: Path) -> None:
    plan = json.loads((run / "plan.json").read_text())
    plan["stages"][2]["start"] = "runs/old:joint"
    stages, origin = stages_to(TrainPlan.from_json(json.dumps(plan)), "topic")
    assert ([stage.name for stage in stages], origin) == (["topic_warm", "topic_joint"], "runs/old:joint")
    (run / "plan.json").write_text(json.dumps(plan))
    assert "They began with the model of runs/old:joint." in Reader(render(run)).text


def test_a_full_ranking_has_a_table_of_its_own(tmp_path: Path) -> None:
    run = make_run(tmp_path, {"graph_lm": 12})
    ours = {"mrr": METRICS["tasks"]["uses"]["test"], "hits@1": 0.6, "full_mrr": 0.123, "recall@10": 0.321}
    change_task(run, "uses", test_metrics=ours)
    html = render(run)
    tables = [t for t in re.findall(r"<table>.*?</table>", html, re.DOTALL) if "recall@10" in t]
    (rows,) = [[[*filter(None, row)] for row in Reader(table).rows] for table in tables]
    assert rows == [["method", "full MRR", "recall@10"], ["LM-GNN", "0.123", "0.321"]]
    assert "hits@1" in Reader(html).text


LEAKS = [
    {"task": "kind", "kind": "pairs", "level": "note", "message": "both ways", "share": None, "count": 2},
    {
        "task": "topic",
        "kind": "label_in_text",
        "level": "warning",
        "message": "the class stands in the text",
        "share": 0.123,
        "count": 1234,
        "examples": [{"id": "7", "text": "<u>web</u>"}, "plain"],
    },
]


def test_leak_warnings_come_first_with_their_examples(run: Path) -> None:
    (run / "leaks.json").write_text(json.dumps(LEAKS))
    html = section(render(run), "Leaks")
    text = Reader(html).text
    assert "1 warning:" in text
    assert "1 234 targets 12.3 % the class stands in the text id: 7 · text: <u>web</u> plain" in text
    assert text.index("stands in the text") < text.index("both ways")
    assert "<u>" not in html


def test_a_run_without_leak_warnings_is_called_clean(run: Path) -> None:
    (run / "leaks.json").write_text(json.dumps(LEAKS[:1]))
    assert "Clean: nothing was found" in Reader(render(run)).text


def test_a_run_in_which_nobody_looked_for_leaks_is_not_called_clean(run: Path) -> None:
    text = Reader(render(run)).text
    assert "nobody looked for leaks" in text
    assert "Clean" not in text
