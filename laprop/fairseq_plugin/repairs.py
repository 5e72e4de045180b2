"""Repairs of what is broken in fairseq 0.12 with today's torch and Hydra, made on import.

* Loading a checkpoint: torch since 2.6 loads weights only and refuses the ``argparse.Namespace``
  that fairseq-train saves with them. It is declared safe, since it holds strings and numbers.
* ``--task masked_lm --mask-whole-words``: the task reads ``self.args``, which does not exist since
  fairseq uses Hydra. This attribute now returns the options of ``--bpe``.
* Resuming after the first epoch: a training without a break makes its batches once, with a seed
  that depends on the epoch. A resumed training would use the seed of the epoch in which it resumes,
  and sentences of equal length would change places. It now uses the seed of the first epoch too.
* ``--bf16`` of fairseq-train: fairseq takes it for a TPU, and fails without torch_xla. Without
  torch_xla it now trains on the GPU or CPU. On several GPUs use fairseq-hydra-train, where bf16
  does not mean a TPU.
* ``--fp16`` on a CPU: fairseq ends in "Torch not compiled with CUDA enabled". It is now refused
  with one line that names what works.
"""

import argparse
import functools
import importlib.util
from typing import Any

import torch
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from fairseq.tasks import FairseqTask
from fairseq.tasks.masked_lm import MaskedLMTask
from fairseq.trainer import Trainer

torch.serialization.add_safe_globals([argparse.Namespace])


def _bpe(task: Any) -> Any:
    """Return the options of ``--bpe``, which have the same parent as the task's options."""
    root = task.cfg._get_parent()
    bpe = None if root is None else root.get("bpe")
    if bpe is None or bpe.get("_name") is None:
        raise SystemExit(
            "error: --mask-whole-words: needs --bpe to know where words begin, such as "
            "--bpe gpt2 --gpt2-encoder-json encoder.json --gpt2-vocab-bpe vocab.bpe"
        )
    return bpe


MaskedLMTask.args = property(_bpe)

_get_batch_iterator = FairseqTask.get_batch_iterator


@functools.wraps(_get_batch_iterator)
def _get_lasting_batch_iterator(task: Any, dataset: Any, *arguments: Any, **options: Any) -> Any:
    rebuilt = options.get("disable_iterator_cache") or options.get("update_epoch_batch_itr")
    if not rebuilt and task.can_reuse_epoch_itr(dataset):
        options["epoch"] = 1  # for the seed alone: load_state_dict sets the epoch to resume in
    return _get_batch_iterator(task, dataset, *arguments, **options)


FairseqTask.get_batch_iterator = _get_lasting_batch_iterator

_init = Trainer.__init__


@functools.wraps(_init)
def _checked_init(trainer: Any, cfg: Any, *arguments: Any, **options: Any) -> None:
    if isinstance(cfg, argparse.Namespace):  # the trainer itself would convert it too late
        cfg = convert_namespace_to_omegaconf(cfg)
    common = cfg.common
    if common.bf16 and common.tpu and importlib.util.find_spec("torch_xla") is None:
        common.tpu = False
    flat = not (common.fp16_no_flatten_grads or common.memory_efficient_fp16)
    if common.fp16 and flat and (common.cpu or not torch.cuda.is_available()):
        raise SystemExit(
            "error: --fp16: its flat gradients need a GPU; on a CPU add --fp16-no-flatten-grads "
            "or --memory-efficient-fp16"
        )
    _init(trainer, cfg, *arguments, **options)


Trainer.__init__ = _checked_init
