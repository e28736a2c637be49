"""Nodes whose embeddings are nearest to a node's: python examples/search.py [FOLDER [ID]]"""

import sys

import numpy as np
import pyarrow.parquet as pq

folder = sys.argv[1] if len(sys.argv) > 1 else "runs/latest/export/uses/embeddings/symbol"
table = pq.read_table(folder)
ids = table["id"].to_pylist()
if len(sys.argv) > 2 and sys.argv[2] not in ids:
    sys.exit(f"{folder} has no node {sys.argv[2]!r}; its first is {ids[0]!r}")
own = ids.index(sys.argv[2]) if len(sys.argv) > 2 else 0
vectors = np.stack(table["embedding"].to_numpy())
vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
cosine = vectors @ vectors[own]
print(f"nearest to {ids[own]}")
for row in np.argsort(-cosine)[:11]:
    if row != own:
        print(f"{cosine[row]:.3f}  {ids[row]}")
