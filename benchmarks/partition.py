"""The benchmark of partition methods as a command: `python benchmarks/partition.py`, see partitioners.py.

Benchmarks beside this file that import the package `partition` find this file first; they get the package.
"""

import importlib
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:] = [str(HERE.parent), *(path for path in sys.path if Path(path).resolve() != HERE), str(HERE)]

if __name__ == "__main__":
    from partitioners import main

    main()
else:
    del sys.modules[__name__]
    importlib.import_module(__name__)  # whoever imports takes what is in sys.modules
