"""Evaluation of candidates in NNI's trials: processes on this machine, or on others over SSH.

Problems of NNI 3.0, and the files that work around them (tests: `tests/search/test_trials.py`, its `_guard`):

- It assigns parameters and results to the wrong trials. Each result repeats its genotype, and only that is trusted.
- It leaves processes behind. Here every process ends with its parent (`preload.js`, `trial.py`).
- It waits forever for dead or hanging trials. The engine has its own timeout and resubmits (`engine.py`).
- Its server is open to the network and serves any file. Here it listens on 127.0.0.1 (`preload.js`), and each path
  needs a code known only to the search and the path's trial (`guard.js`).
- It imports and unpickles names in messages. Here messages are plain data (`channel.py`, `trial.py`).
- A process that lost its server would obey the next one at the same address. Here it exits (`preload.js`).
- It allows 3 s for a server and 10 s for a tuner to start. We start both and wait longer (`manager.py`).
"""

import os


def spare_loopback_of_proxies() -> None:
    """Exempt 127.0.0.1 from ``http_proxy`` and the like, because NNI's processes communicate over it."""
    for name in ("no_proxy", "NO_PROXY"):
        given = [os.environ[name]] if os.environ.get(name) else []
        os.environ[name] = ",".join([*given, "127.0.0.1", "localhost"])
