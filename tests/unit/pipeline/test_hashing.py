"""Hash draws: uniform, independent, and a function of their labels alone."""

from __future__ import annotations

import numpy as np
import torch
from scipy.stats import chi2_contingency, chisquare

from pipeline.hashing import hash_ids, key_of, permutation, uniform_ids

MASK64 = (1 << 64) - 1


def splitmix_finaliser(x: int) -> int:
    """Steele et al. 2014 in plain integers."""
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK64
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK64
    return x ^ (x >> 31)


def test_the_mixer_is_splitmix64():
    ids = torch.tensor([0, 1, -1, 2**62, -(2**63), 123456789])
    expected = []
    for value in ids.tolist():
        state = splitmix_finaliser((((key_of(7) ^ value) & MASK64) + 0x9E3779B97F4A7C15) & MASK64)
        expected.append(state - (1 << 64) if state >> 63 else state)
    assert hash_ids(key_of(7), ids).tolist() == expected


def test_consecutive_ids_are_uniform():
    draws = uniform_ids(key_of(0, "x"), torch.arange(20_000), columns=3, below=50)
    for column in draws.T:
        assert chisquare(torch.bincount(column, minlength=50).numpy()).pvalue > 1e-4


def test_every_bit_is_set_half_of_the_time():
    bits = hash_ids(key_of("bits"), torch.arange(40_000))[:, None] >> torch.arange(64) & 1
    ones = bits.sum(0).numpy()
    assert (np.abs(ones - 20_000) < 5 * np.sqrt(40_000 / 4)).all()


def test_draws_of_two_columns_and_of_two_keys_are_independent():
    rows = torch.arange(20_000)
    first = uniform_ids(key_of(0, "a"), rows, columns=2, below=8)
    second = uniform_ids(key_of(0, "b"), rows, columns=1, below=8)
    for other in (first[:, 1], second[:, 0]):
        table = torch.bincount(first[:, 0] * 8 + other, minlength=64).view(8, 8).numpy()
        assert chi2_contingency(table).pvalue > 1e-4


def test_a_row_draws_the_same_in_any_order_and_company():
    rows = torch.tensor([5, 900, 7, 2**40])
    whole = uniform_ids(key_of(1), rows, columns=4, below=1000)
    order = torch.tensor([3, 0])
    assert torch.equal(uniform_ids(key_of(1), rows[order], columns=4, below=1000), whole[order])


def test_draws_do_not_depend_on_the_number_of_threads_or_the_global_seed():
    torch.set_num_threads(2)
    torch.manual_seed(1)
    many = hash_ids(key_of(3), torch.arange(100_000))
    torch.set_num_threads(1)
    torch.manual_seed(2)
    assert torch.equal(many, hash_ids(key_of(3), torch.arange(100_000)))


def test_keys_tell_all_labels_apart():
    labels = [(1, "a"), ("1", "a"), (1, "b"), ("a", 1), (1,), (1, "a", 0), (11, ""), (1, "1")]
    assert len({key_of(*one) for one in labels}) == len(labels)


def test_a_key_is_the_same_in_every_process_and_release():
    assert key_of(0, "train", 3) == int.from_bytes(
        __import__("hashlib").blake2b(b"(0, 'train', 3)", digest_size=8).digest(), "little", signed=True
    )


def test_a_permutation_holds_every_number_once():
    assert permutation(key_of(4), 1000).sort().values.tolist() == list(range(1000))
    assert permutation(key_of(4), 0).tolist() == []


def test_first_places_of_permutations_are_uniform():
    firsts = torch.tensor([int(permutation(key_of(k), 10)[0]) for k in range(3000)])
    assert chisquare(torch.bincount(firsts, minlength=10).numpy()).pvalue > 1e-4
