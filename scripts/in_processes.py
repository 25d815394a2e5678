"""Start ``qdbev`` in several processes of one thread each: on a CPU quicker than one process of several threads.

python scripts/in_processes.py 2 compress --profile w4a6

torchrun starts them. Where a process fails or is stopped it has said why, so torchrun's own report gives way to the
exit code.
"""

from __future__ import annotations

import logging
import os
import signal
import sys

from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import parse_args, run


def main() -> int:
    """Run the command in as many processes as the first word says; 128 and the signal's number where one stopped it."""
    count, *words = sys.argv[1:]
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # else each process warns that no parameter is unused
    logging.disable(logging.ERROR)
    try:
        run(parse_args(["--standalone", "--nproc_per_node", count, "-m", "qdbev_cli", *words]))
    except SignalException as stopped:
        return 128 + int(stopped.sigval)
    except ChildFailedError as failed:
        code = failed.get_first_failure()[1].exitcode
        return code if code > 0 else 128 - code
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    return 0


if __name__ == "__main__":
    sys.exit(main())
