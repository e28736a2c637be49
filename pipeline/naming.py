"""Names of node types and relations as keys of torch containers.

Owns one escape. `nn.ModuleDict` and `nn.ParameterDict` refuse dots and the names of their own
methods ("type", "keys"), which are ordinary names in a graph.
"""

from __future__ import annotations


def module_key(name: str) -> str:
    """A key for any type or relation name; different names give different keys."""
    return "of " + name.replace("%", "%25").replace(".", "%2E")
