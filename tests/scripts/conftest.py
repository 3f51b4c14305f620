"""The scripts are no package: their folders are put on the path, as Python does when it runs one."""

import sys
from pathlib import Path

SCRIPTS = Path(__file__).parent.parent.parent / "scripts"
sys.path[:0] = [str(SCRIPTS), str(SCRIPTS / "peers")]
