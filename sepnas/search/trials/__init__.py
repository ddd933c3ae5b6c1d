"""Judging candidates in NNI's trials: processes of this machine, or of others over SSH.

What NNI 3.0 does wrong here, and who keeps it from biting (tests: `tests/search/test_trials.py`, its `_guard`):

- it hands parameters and answers to the wrong trials: an answer repeats its genotype, nothing else is trusted;
- it leaves processes behind: they end with the one that started them, however that ended (`preload.js`, `trial.py`);
- it waits for ever for what died or hangs: the engine has its own clock and submits again (`engine.py`);
- its server is open to the network, and gives anyone any file: it listens on 127.0.0.1 (`preload.js`), and a path is
  opened by a code of its own that only the search and the trial it is for know (`guard.js`);
- it imports and unpickles what a message names: messages are plain data (`channel.py`, `trial.py`);
- what lost its server would obey whoever listens there next: it ends (`preload.js`);
- it gives a server 3 s and a tuner 10 s to start: we start both, and wait longer (`manager.py`).
"""

import os


def spare_loopback_of_proxies() -> None:
    """NNI's parts talk over 127.0.0.1, and would ask a proxy of the environment (``http_proxy``) to do that."""
    for name in ("no_proxy", "NO_PROXY"):
        given = [os.environ[name]] if os.environ.get(name) else []
        os.environ[name] = ",".join([*given, "127.0.0.1", "localhost"])
