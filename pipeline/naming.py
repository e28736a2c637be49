"""Names of node types, relations and tasks as keys of torch containers and as folders.

Owns two escapes. `nn.ModuleDict` and `nn.ParameterDict` refuse dots and the names of their own
methods ("type", "keys"), which are ordinary names in a graph.
"""

from __future__ import annotations


def module_key(name: str) -> str:
    """A key for any type or relation name; different names give different keys."""
    return "of " + name.replace("%", "%25").replace(".", "%2E")


def task_folder(name: str) -> str:
    """The folder of a task below a run's export/; different names give different folders."""
    return name.replace("%", "%25").replace("/", "%2F")
