"""The run directory: what is written, when it counts as written, and who may write.

``atomic`` puts one file in place whole, ``lines`` appends records to a log, ``commit`` makes a
folder visible at once, ``lock`` keeps a run to one writer, ``run`` is the directory itself. The
formats are written down in ``docs/run-format.md``.
"""

from harness.store.commit import is_committed, verify
from harness.store.lock import LockedError
from harness.store.run import CheckpointInfo, Run

__all__ = ["CheckpointInfo", "LockedError", "Run", "is_committed", "verify"]
