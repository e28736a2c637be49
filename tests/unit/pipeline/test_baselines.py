"""baselines/compare.py and its link baselines against brute force, over real partitions of a small graph."""

from __future__ import annotations

import json
import math
import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from sklearn.feature_extraction.text import TfidfVectorizer

from partition.build import BuildOptions, build
from partition.errors import StoreError, UsageError
from partition.manifest import PartitionManifest
from partition.reader import read_edge_targets, read_ids
from pipeline.baselines.compare import main, run
from pipeline.baselines.features import Features
from pipeline.baselines.links import Asked, reciprocal_ranks
from pipeline.baselines.stored_graph import Edges, Question, StoredGraph
from pipeline.candidates import eval_candidates
from pipeline.config import GraphPlan, StagePlan, TaskPlan, TrainPlan

SEED, K = 3, 7
WORDS = [f"word{i}" for i in range(40)]
"""So many that scores of different texts are equal only where both are 0."""

GRAPH_TOML = """
[nodes.book]
path = "book.parquet"
id = "id"
text = "text"
[nodes.shelf]
path = "shelf.parquet"
id = "id"
[edges.cites]
path = "cites.parquet"
source = "book"
destination = "book"
split = "split"
[edges.on]
path = "on.parquet"
source = "book"
destination = "shelf"
"""


class Library:
    """Forty books, three shelves, random citations; all in plain Python."""

    def __init__(self, folder: Path) -> None:
        draw = random.Random(1)
        self.books = [f"b{i:02}" for i in range(40)]
        self.text = {b: " ".join(draw.choices(WORDS, k=draw.randint(0, 9))) for b in self.books}
        pairs = sorted({tuple(draw.sample(self.books, 2)) for _ in range(160)})
        self.split = {(a, b): draw.choice(["train", "train", "valid", "test", "message"]) for a, b in pairs}
        self.shelf = {b: draw.choice(["s0", "s1", "s2"]) for b in self.books}
        self.folder = folder
        folder.mkdir()
        self.write()

    def write(self) -> None:
        folder = self.folder
        (folder / "graph.toml").write_text(GRAPH_TOML)
        _table(folder / "book.parquet", id=self.books, text=[self.text[b] for b in self.books])
        _table(folder / "shelf.parquet", id=["s0", "s1", "s2"])
        sources, destinations = [a for a, _ in self.split], [b for _, b in self.split]
        _table(folder / "cites.parquet", src_id=sources, dst_id=destinations, split=list(self.split.values()))
        _table(folder / "on.parquet", src_id=self.books, dst_id=[self.shelf[b] for b in self.books])

    def neighbours(self, book: str) -> set[str]:
        """Ends of the stored edges of a book, either way round."""
        kept = [(a, b) for (a, b), split in self.split.items() if split in ("train", "message")]
        return {b for a, b in kept if a == book} | {a for a, b in kept if b == book}


def _table(path: Path, **columns: Sequence[str]) -> None:
    pq.write_table(pa.table({name: list(values) for name, values in columns.items()}), path)


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Library:
    return Library(tmp_path_factory.mktemp("baselines") / "library")


def _run_folder(library: Library, folder: Path, *, hosts: int) -> Path:
    """A started run over a real partition."""
    options = BuildOptions(hosts=hosts, trainers=1, cluster_size=5)
    built = build(str(library.folder), options, store=str(folder / "store"), say=lambda _: None)
    task = TaskPlan(relations=("cites",), eval_negatives=K)
    plan = TrainPlan(
        name="test",
        graph=GraphPlan(str(library.folder)),
        tasks={"cite": task},
        stages=(StagePlan("one", "joint", task="cite"),),
        seed=SEED,
    )
    (folder / "plan.json").write_text(plan.to_json())
    (folder / "launch.json").write_text(json.dumps({"partition": str(built)}))
    return folder


def _asked(library: Library, run_folder: Path, split: int) -> list[tuple[str, list[str]]]:
    """(source, [true tail, candidates that are no edge…]) of a split, by original ids."""
    folder = Path(json.loads((run_folder / "launch.json").read_text())["partition"])
    manifest = PartitionManifest.load(folder)
    ids = [i for h in range(manifest.hosts) for i in read_ids(folder, h, "book").to_pylist()]
    asked = []
    for host in range(manifest.hosts):
        targets = read_edge_targets(folder, host, "cites")
        for source, tail, s in zip(targets.source, targets.destination, targets.split, strict=True):
            if s == split:
                one = (torch.tensor([source]), torch.tensor([tail]))
                drawn = eval_candidates(SEED, "cites", ("train", "valid", "test")[split], *one, K, len(ids))
                head, others = ids[source], [ids[i] for i in drawn[0].tolist()]
                free = [o for o in others if o != head and (head, o) not in library.split]
                asked.append((head, [ids[tail], *free]))
    return asked


def _unit(vector: np.ndarray) -> np.ndarray:
    length = math.sqrt(float(vector @ vector))
    return vector / length if length else vector


def _score_tables(library: Library) -> dict[str, dict[tuple[str, str], float]]:
    """Baseline -> (source, tail) -> score, one pair at a time."""
    texts = [library.text[b] for b in library.books]
    vectorizer = TfidfVectorizer(sublinear_tf=True).fit([text for text in texts if text])
    own = dict(zip(library.books, vectorizer.transform(texts).toarray(), strict=True))
    around = {b: _unit(sum((own[n] for n in library.neighbours(b)), own[b] * 0)) for b in library.books}
    trained = Counter(b for (_, b), split in library.split.items() if split == "train")
    tables: dict[str, dict[tuple[str, str], float]] = {"popularity": {}, "tfidf": {}, "neighbours": {}}
    for a in library.books:
        for b in library.books:
            tables["popularity"][a, b] = trained[b]
            tables["tfidf"][a, b] = own[a] @ own[b]
            crossed = own[a] @ around[b] + around[a] @ own[b] + around[a] @ around[b]
            tables["neighbours"][a, b] = crossed / 3
    return tables


def _brute_mrr(asked: list[tuple[str, list[str]]], score: dict[tuple[str, str], float]) -> float:
    total = 0.0
    for source, (true, *others) in asked:
        values = [score[source, other] - score[source, true] for other in others]
        total += 1 / (1 + sum(v > 1e-6 for v in values) + sum(abs(v) <= 1e-6 for v in values) / 2)
    return total / len(asked)


@pytest.mark.parametrize("hosts", [1, 2])
def test_baselines_equal_brute_force(library: Library, tmp_path: Path, hosts: int) -> None:
    folder = _run_folder(library, tmp_path, hosts=hosts)
    found = run(folder)["cite"]
    tables = _score_tables(library)

    def mixed(weight: float) -> dict[tuple[str, str], float]:
        pairs = tables["tfidf"]
        return {p: (1 - weight) * pairs[p] + weight * tables["neighbours"][p] for p in pairs}

    tables["tfidf_neighbours"] = mixed(found["tfidf_neighbours"].choice["share of the neighbours"])
    for name in ("popularity", "tfidf", "tfidf_neighbours"):
        valid, test = (
            _brute_mrr(_asked(library, folder, 1), tables[name]),
            _brute_mrr(_asked(library, folder, 2), tables[name]),
        )
        assert found[name].valid["mrr"] == pytest.approx(valid, abs=1e-9)
        assert found[name].test["mrr"] == pytest.approx(test, abs=1e-9)


def test_the_weight_is_the_best_on_validation(library: Library, tmp_path: Path) -> None:
    folder = _run_folder(library, tmp_path, hosts=1)
    found = run(folder)["cite"]
    asked, tables = _asked(library, folder, 1), _score_tables(library)
    for weight in (0.0, 0.2, 0.5, 0.8, 1.0):
        mixed = {
            p: (1 - weight) * tables["tfidf"][p] + weight * tables["neighbours"][p] for p in tables["tfidf"]
        }
        assert _brute_mrr(asked, mixed) <= found["tfidf_neighbours"].valid["mrr"] + 1e-9


def test_scores_equal_the_dense_formula(library: Library) -> None:
    number = {b: i for i, b in enumerate(library.books)}
    edges = [(number[a], number[b]) for (a, b), s in library.split.items() if s in ("train", "message")]
    features = Features([library.text[b] for b in library.books], {"cites": Edges(*np.array(edges).T)})
    source, tails = np.arange(40), np.tile(np.arange(40), (40, 1))
    found = Asked(features, Question(source, tails, tails[:, 1:] >= 0, np.arange(40)))
    tables = _score_tables(library)
    for name in ("tfidf", "neighbours"):
        expected = [[tables[name][a, b] for b in library.books] for a in library.books]
        np.testing.assert_allclose(getattr(found, name), expected, atol=1e-5)


def test_the_graph_baseline_finds_links_inside_blocks_without_a_text(tmp_path: Path) -> None:
    library = Library(tmp_path / "library")
    library.text = dict.fromkeys(library.books, "")
    block = {b: i // 10 for i, b in enumerate(library.books)}
    draw = random.Random(2)
    pairs = [(a, b) for a in library.books for b in library.books if a != b and block[a] == block[b]]
    library.split = {pair: draw.choice(["train", "train", "train", "valid", "test"]) for pair in pairs}
    library.write()
    found = run(_run_folder(library, tmp_path, hosts=1))["cite"]
    assert set(found) == {"popularity", "graph"}
    assert found["graph"].test["mrr"] > 0.6 > found["popularity"].test["mrr"]
    assert set(found["graph"].choice) == {"dimensions", "score", "share of popularity"}


def test_hits_count_ranks(library: Library, tmp_path: Path) -> None:
    folder = _run_folder(library, tmp_path, hosts=1)
    figures = run(folder)["cite"]["tfidf"].test
    score, ranks = _score_tables(library)["tfidf"], []
    for source, (true, *others) in _asked(library, folder, 2):
        values = [score[source, other] - score[source, true] for other in others]
        ranks.append(1 + sum(v > 1e-6 for v in values) + sum(abs(v) <= 1e-6 for v in values) / 2)
    for k in (1, 3, 10):
        assert figures[f"hits@{k}"] == pytest.approx(np.mean([rank <= k for rank in ranks]))


def test_ties_count_half() -> None:
    scores = np.array([[1.0, 2, 1, 1, 0], [5, 1, 2, 3, 4], [0, 0, 0, 0, 0]])
    assert reciprocal_ranks(scores, np.ones((3, 4), bool)).tolist() == [1 / 3, 1.0, 1 / 3]


def test_candidates_that_do_not_count_are_not_above() -> None:
    counts = np.array([[False, True, True, True]])
    assert reciprocal_ranks(np.array([[1.0, 2, 1, 1, 0]]), counts).tolist() == [1 / 2]


def test_metrics_keep_what_else_they_hold(library: Library, tmp_path: Path) -> None:
    folder = _run_folder(library, tmp_path, hosts=1)
    before = {"tasks": {"cite": {"metric": "mrr", "test": 0.5}}, "other": 1}
    (folder / "metrics.json").write_text(json.dumps(before))
    found = run(folder)["cite"]
    after = json.loads((folder / "metrics.json").read_text())
    entry = after["tasks"]["cite"]
    assert entry.pop("baselines") == {name: baseline.test["mrr"] for name, baseline in found.items()}
    assert entry.pop("baseline_metrics") == {name: baseline.test for name, baseline in found.items()}
    assert entry.pop("baseline_choices") == {name: baseline.choice for name, baseline in found.items()}
    assert after == before


def test_the_command_tells_what_was_tuned(
    library: Library, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = _run_folder(library, tmp_path, hosts=1)
    assert main([str(folder)]) == 0
    told = capsys.readouterr().out
    assert "share of the neighbours = " in told
    assert "All choices were made on validation; the test split was scored once" in told
    stored = json.loads((folder / "metrics.json").read_text())["tasks"]["cite"]["baselines"]
    for name, value in stored.items():
        assert f"{name} test mrr {value:.4f}" in told


def test_a_folder_that_is_no_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"plan\.json is missing"):
        run(tmp_path)


def test_tables_that_changed_after_the_partition_are_noticed(tmp_path: Path) -> None:
    library = Library(tmp_path / "library")
    folder = _run_folder(library, tmp_path, hosts=1)
    renamed = [b.upper() for b in library.books]
    _table(library.folder / "book.parquet", id=renamed, text=list(library.text.values()))
    ends = [[a.upper() for a, _ in library.split], [b.upper() for _, b in library.split]]
    _table(
        library.folder / "cites.parquet", src_id=ends[0], dst_id=ends[1], split=list(library.split.values())
    )
    _table(library.folder / "on.parquet", src_id=renamed, dst_id=list(library.shelf.values()))
    with pytest.raises(StoreError, match="book ids are not those"):
        run(folder)


def test_nodes_without_texts_tie() -> None:
    features = Features(["", "", ""], {"cites": Edges(np.array([0]), np.array([1]))})
    counts = np.ones((1, 2), bool)
    found = Asked(features, Question(np.array([0]), np.array([[1, 2, 2]]), counts, np.zeros(3, np.int64)))
    assert reciprocal_ranks(found.tfidf, counts).tolist() == [0.5]


def test_candidates_depend_on_the_edge_alone() -> None:
    source, destination = torch.arange(50), torch.arange(50) * 7
    whole = eval_candidates(1, "r", "valid", source, destination, 9, 1000)
    assert whole.shape == (50, 9)
    assert 0 <= int(whole.min()) <= int(whole.max()) < 1000
    piece = eval_candidates(1, "r", "valid", source[20:30], destination[20:30], 9, 1000)
    assert torch.equal(piece, whole[20:30])
    for other in ((2, "r", "valid"), (1, "q", "valid"), (1, "r", "test")):
        assert not torch.equal(eval_candidates(*other, source, destination, 9, 1000), whole)


def test_rows_that_a_partition_leaves_out_are_left_out_of_its_tables_too(tmp_path: Path) -> None:
    library = Library(tmp_path / "library")
    on = pq.read_table(library.folder / "on.parquet").to_pydict()
    _table(library.folder / "on.parquet", **{key: [*ids, "nowhere"] for key, ids in on.items()})
    options = BuildOptions(bad_rows="quarantine", cluster_size=5)
    built = build(str(library.folder), options, store=str(tmp_path / "store"), say=lambda _: None)
    plan = TrainPlan(
        name="test",
        graph=GraphPlan(str(library.folder)),
        tasks={"cite": TaskPlan(relations=("cites",))},
        stages=(StagePlan("one", "joint", task="cite"),),
    )
    edges = StoredGraph(plan, built).message_edges()
    assert len(edges["on"].source) == len(library.books)
