"""Makes the graph of Debian packages: `python build.py OUT_FOLDER`.

Reads what apt has fetched (Packages, Sources, Translation-en) and writes Parquet tables and
graph.toml. Owns the tables, the labels and the choice of tags. Fetches nothing.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import pyarrow as pa

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]  # also under `python -P`

from aptlists import Lists, read_lists  # noqa: E402
from dependencies import KINDS, Pair, Relations, find_relations, source_of  # noqa: E402
from descriptions import package_text  # noqa: E402
from graph_folder import check_free, split_of, write_graph  # noqa: E402

RARE_TAG = 5
"""Tags of fewer packages are left out."""
TELLING_TAG = 0.8
"""A tag of which so large a share lies in one section gives the section away: left out."""

NODES = """\
name = "debian"

[nodes.package]
path = "nodes/package.parquet"
text = "text"
label = "label"
classes = {sections}
split = "split"

[nodes.source]
path = "nodes/source.parquet"

[nodes.maintainer]
path = "nodes/maintainer.parquet"

[nodes.tag]
path = "nodes/tag.parquet"
text = "text"
"""
EDGE = """
[edges.{name}]
path = "edges/{name}.parquet"
source = "{source}"
destination = "{destination}"
"""
ENDS = {
    "depends": ("package", "package"),
    "recommends": ("package", "package"),
    "suggests": ("package", "package"),
    "enhances": ("package", "package"),
    "conflicts": ("package", "package"),
    "relates_to": ("package", "package"),
    "built_from": ("package", "source"),
    "maintains": ("maintainer", "package"),
    "has_tag": ("package", "tag"),
    "build_depends": ("source", "package"),
}


def node_tables(lists: Lists, tags: Iterable[str], maintainers: Iterable[int]) -> dict[str, pa.Table]:
    """Node type -> table; ids are names, but for maintainers, whose names nobody needs."""
    hyphenated = {name for name in lists.packages if "-" in name}
    sources = {name: source_of(package) for name, package in lists.packages.items()}
    texts = [
        package_text(
            lists.descriptions.get(package.get("Description-md5", ""), package["Description"]),
            own=(name, sources[name]),
            hyphenated=hyphenated,
        )
        for name, package in lists.packages.items()
    ]
    tags = sorted(set(tags))
    return {
        "package": pa.table(
            {
                "id": list(lists.packages),
                "text": texts,
                "label": [section(package["Section"]) for package in lists.packages.values()],
                # by source: its packages share most of their text
                "split": [split_of(sources[name], train=0.54, valid=0.18) for name in lists.packages],
            }
        ),
        "source": pa.table({"id": sorted(set(sources.values()))}),
        "maintainer": pa.table({"id": sorted(set(maintainers))}),
        "tag": pa.table({"id": tags, "text": [_tag_text(tag) for tag in tags]}),
    }


def edge_tables(
    lists: Lists, relations: Relations, tags: Iterable[Pair], maintained: Iterable[tuple[int, str]]
) -> dict[str, pa.Table]:
    """Relation -> table."""
    sources = [(name, source_of(package)) for name, package in lists.packages.items()]
    tables = {name: _ends(pairs) for name, pairs in relations.packages.items()}
    for name, splits in relations.asked.items():
        tables[name] = tables[name].append_column("split", pa.array(splits.values(), pa.string()))
    kinds = relations.relates_to
    tables["relates_to"] = (
        _ends(kinds)
        .append_column("label", pa.array((kind for kind, _ in kinds.values()), pa.string()))
        .append_column("split", pa.array((split for _, split in kinds.values()), pa.string()))
    )
    tables["built_from"] = _ends(sources)
    tables["maintains"] = _ends(maintained)
    tables["has_tag"] = _ends(tags)
    tables["build_depends"] = _ends(relations.build_depends)
    return tables


def _ends(pairs: Iterable[tuple[int | str, str]]) -> pa.Table:
    pairs = list(pairs)
    source = pa.string() if not pairs or isinstance(pairs[0][0], str) else pa.int64()
    return pa.table(
        {
            "src_id": pa.array((a for a, _ in pairs), source),
            "dst_id": pa.array((b for _, b in pairs), pa.string()),
        }
    )


def section(name: str) -> str:
    """The section without the area: non-free/libs counts as libs."""
    return name.rpartition("/")[2]


def useful_tags(lists: Lists) -> list[Pair]:
    """(package, tag) for the tags that are frequent enough and tell no section."""
    wearers: dict[str, list[str]] = defaultdict(list)
    for name, package in lists.packages.items():
        for tag in {tag.strip() for tag in package.get("Tag", "").replace("\n", " ").split(",")} - {""}:
            wearers[tag].append(name)
    pairs = []
    for tag, names in wearers.items():
        sections = Counter(section(lists.packages[name]["Section"]) for name in names)
        telling = max(sections.values()) >= TELLING_TAG * len(names)
        if len(names) >= RARE_TAG and not telling and not tag.endswith("::TODO"):
            pairs += [(name, tag) for name in names]
    return sorted(pairs)


def _tag_text(tag: str) -> str:
    """works-with::image:raster -> works with: image raster."""
    facet, _, value = tag.partition("::")
    return f"{facet}: {value.replace(':', ' ')}".replace("-", " ")


def maintainer_numbers(lists: Lists) -> list[tuple[int, str]]:
    """(number of the maintainer's address, package), in the order of the packages."""
    addresses = {
        name: package["Maintainer"].rpartition("<")[2].rstrip("> ").lower()
        for name, package in lists.packages.items()
    }
    numbers = {address: number for number, address in enumerate(sorted(set(addresses.values())))}
    return [(numbers[address], name) for name, address in addresses.items()]


def graph_toml(sections: Iterable[str], edges: Mapping[str, pa.Table]) -> str:
    text = NODES.format(sections=json.dumps(sorted(set(sections))))
    for name, (source, destination) in ENDS.items():
        text += EDGE.format(name=name, source=source, destination=destination)
        if "label" in edges[name].column_names:
            text += f'label = "label"\nclasses = {json.dumps(KINDS)}\n'
        if "split" in edges[name].column_names:
            text += 'split = "split"\n'
    return text


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description="Make the graph of Debian packages from what apt has fetched.",
        epilog="example: python build.py data/debian",
    )
    parser.add_argument("out", type=Path, metavar="OUT_FOLDER", help="folder to make")
    parser.add_argument(
        "--lists", type=Path, default=Path("/var/lib/apt/lists"), help="where apt keeps its indexes"
    )
    parser.add_argument("--suite", default="", help="bookworm, trixie, …; that of this system unless given")
    args = parser.parse_args(argv)
    start = time.perf_counter()
    try:
        check_free(args.out)
        suite = args.suite or platform.freedesktop_os_release()["VERSION_CODENAME"]
        lists = read_lists(args.lists, suite)
        tags, maintained = useful_tags(lists), maintainer_numbers(lists)
        nodes = node_tables(lists, (tag for _, tag in tags), (number for number, _ in maintained))
        edges = edge_tables(lists, find_relations(lists), tags, maintained)
        toml = graph_toml(nodes["package"]["label"].to_pylist(), edges)
        write_graph(args.out, nodes=nodes, edges=edges, toml=toml)
    except (LookupError, OSError, ValueError) as error:
        print(f"error: {error.args[0] if isinstance(error, LookupError) else error}", file=sys.stderr)
        return 3
    print(f"made {args.out} of {suite} in {time.perf_counter() - start:.1f} s")
    for kind, tables in (("nodes", nodes), ("edges", edges)):
        print(f"{kind}: " + ", ".join(f"{len(table)} {name}" for name, table in tables.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
