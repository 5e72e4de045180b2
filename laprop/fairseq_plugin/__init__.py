"""LaProp for fairseq, as a folder that ``fairseq-train --user-dir`` takes.

::

    PLUGIN=$(python -c 'import laprop; print(laprop.__path__[0])')/fairseq_plugin
    fairseq-train DATA --user-dir $PLUGIN \
        --optimizer laprop --laprop-betas '(0.9, 0.98)' --lr 3e-4 --weight-decay 0.0001 ...

The options are those of :class:`laprop.LaProp` under fairseq's names
(:class:`~laprop.fairseq_plugin.optimizer.FairseqLaPropConfig` lists them), and the step is that
class's own. For ``fairseq-hydra-train`` give the options in the configuration file::

    common: {user_dir: /path/to/laprop/fairseq_plugin}
    optimizer: {_name: laprop, laprop_betas: "(0.9, 0.98)", weight_decay: 0.0001}

``--fp16``, ``--bf16`` and their memory-efficient forms work as with fairseq's adam. Arithmetic and
averages are in float32; ``--laprop-low-precision`` says how the 16-bit weights of memory-efficient
training are stored. A training resumes from a checkpoint with the same bits, except with plain
``--fp16`` and ``--bf16``: fairseq does not save their float32 weights and resumes from rounded
ones.

fairseq 0.12 is no longer maintained; with today's Python and torch use ``fairseq-fixed``. Importing
the plugin repairs what is broken in it (:mod:`~laprop.fairseq_plugin.repairs`), so give
``--user-dir`` to ``fairseq-generate`` and the other tools as well.
"""

import sys
from contextlib import suppress
from pathlib import Path

from laprop.fairseq_plugin import optimizer, repairs

__all__ = ["optimizer", "repairs"]

if __name__ == "fairseq_plugin":
    # fairseq imports this folder as a module of this name, and leaves the folder above it first on
    # sys.path. There laprop's modules would hide others of the same name, such as `functional`.
    # fairseq does not resolve symbolic links in that path, so neither does this code.
    with suppress(ValueError):
        sys.path.remove(str(Path(__file__).absolute().parents[1]))
