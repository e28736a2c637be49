"""Candidates that count, against the list of all edges; over parts that no single trainer holds."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from test_fullrank import ENDS, random_case

from pipeline.candidates import eval_candidates
from pipeline.known import KnownTails
from pipeline.tasks import rank_of_true

COUNTS = {"author": 90, "paper": 70}
"""Few nodes, so that most kinds of candidates occur."""


@pytest.mark.parametrize("relation", ENDS)
def test_what_counts_is_no_edge_of_any_split_nor_an_end_of_the_target(relation: str, tmp_path: Path) -> None:
    case = random_case(tmp_path, counts=COUNTS)
    splits = [case[name][relation].tolist() for name in ("messages", "valid", "test")]
    edges = {(source, destination) for pairs in splits for source, destination in pairs}
    known = KnownTails(case["graph"], tuple(ENDS), range(4), lambda value: [value])
    source, destination = torch.from_numpy(case["test"][relation]).T
    others = eval_candidates(0, relation, "test", source, destination, 40, COUNTS["paper"])
    found = known.among(relation, source, destination, others).counts
    for row, (head, tail) in enumerate(zip(source.tolist(), destination.tolist(), strict=True)):
        within = ENDS[relation][0] == "paper"
        expected = [
            other != tail and (head, other) not in edges and not (within and other == head)
            for other in others[row].tolist()
        ]
        assert found[row].tolist() == expected
    assert 0.1 < float(found.float().mean()) < 0.99


def test_a_model_that_knows_all_edges_ranks_every_true_tail_first(tmp_path: Path) -> None:
    case = random_case(tmp_path, counts=COUNTS)
    known = KnownTails(case["graph"], tuple(ENDS), range(4), lambda value: [value])
    score = torch.zeros(COUNTS["paper"], COUNTS["paper"])
    for name in ("messages", "valid", "test"):
        score[tuple(torch.from_numpy(case[name]["cites"]).T)] = 1.0
    source, destination = torch.from_numpy(case["test"]["cites"]).T
    others = eval_candidates(0, "cites", "test", source, destination, 40, COUNTS["paper"])
    scores = score[source[:, None], torch.cat([destination[:, None], others], dim=1)]
    counts = known.among("cites", source, destination, others).counts
    assert bool((rank_of_true(scores[:, 0], scores[:, 1:], counts) == 1).all())
    everything = torch.ones_like(counts)
    assert bool((rank_of_true(scores[:, 0], scores[:, 1:], everything) > 1).any())
