"""The asv suite: what is watched from commit to commit.

Every process gets the same number of threads, and each commit a kernel cache of its own, apart from the user's.
"""

import os
import sys
from pathlib import Path

# asv imports this package alone; the table of networks and the gate's rows stand beside it.
sys.path.insert(0, str(Path(__file__).parents[1]))

THREADS = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

os.environ["NUMBA_NUM_THREADS"] = str(THREADS)
os.environ["FASTBP_CACHE_DIR"] = str(Path(sys.prefix) / "fastbp-cache" / os.environ.get("ASV_COMMIT", "here")[:12])
