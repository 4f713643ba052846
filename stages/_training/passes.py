"""The forward passes of this process over samples of one split: padded rows, or one packed row each."""

import numpy as np
from deepspeed import comm

from pipeline.errors import UserError
from stages._training.batches import Batch, TokenFile, share
from stages._training.layout import room_problems
from stages._training.packing import pack
from stages._training.spec import WorkerSpec


class Passes:
    """How one split's samples are shared out among the processes and laid out as tensors."""

    def __init__(self, tokens: TokenFile, spec: WorkerSpec) -> None:
        self._tokens = tokens
        self._per_device_batch_size = spec.per_device_batch_size
        self._pack_length = self._room(spec) if spec.config.packing else None

    def own(self, rows: np.ndarray) -> list[np.ndarray]:
        """This process's passes over these samples: as many as the others have, the last ones empty if it must be."""
        lengths, place = self._tokens.lengths, (comm.get_rank(), comm.get_world_size())
        if self._pack_length is None:
            return list(share(rows, lengths, self._per_device_batch_size, *place))
        return list(pack(rows, lengths, self._pack_length, *place))

    def batch(self, rows: np.ndarray) -> Batch:
        """One pass as tensors."""
        return self._tokens.batch(rows) if self._pack_length is None else self._tokens.packed(rows)

    def _room(self, spec: WorkerSpec) -> int:
        """Tokens of a packed row, by default as many as a padded pass could hold.

        Raises UserError if the longest sample does not fit.
        """
        longest = int(self._tokens.lengths.max())
        if spec.config.pack_length is None:
            return spec.per_device_batch_size * longest
        if problems := room_problems(spec.config, longest):
            raise UserError(*problems)
        return spec.config.pack_length
