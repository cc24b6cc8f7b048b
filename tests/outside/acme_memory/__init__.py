"""A package of other people: a machine, a reader, an encoder and a source that rm-rec knows nothing of.

Tests put its folder on sys.path; it says in the environment that it was imported.
"""

import os

os.environ["ACME_MEMORY_WAS_IMPORTED"] = "yes"
