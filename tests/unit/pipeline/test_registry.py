"""The name table that encoders, tasks and stages register in."""

from __future__ import annotations

import pytest

from partition.errors import UsageError
from pipeline.registry import Registry


def table() -> Registry[type]:
    made: Registry[type] = Registry("graph encoder")
    made.add("rgcn")(int)
    made.add("sage")(float)
    return made


def test_what_is_registered_is_found_and_stays_itself():
    made = table()

    @made.add("mine")
    class Mine:
        pass

    assert made["mine"] is Mine
    assert "mine" in made


def test_an_unknown_name_lists_the_known_ones_closest_first():
    with pytest.raises(UsageError, match="unknown graph encoder 'sgae'; known: sage, rgcn"):
        table()["sgae"]


def test_a_name_is_registered_once():
    with pytest.raises(ValueError, match="'rgcn' is registered twice"):
        table().add("rgcn")
