"""Batches in the order of a sampler, and how far the epoch is, so that a checkpoint in its middle can be resumed."""

from collections.abc import Callable, Iterator
from typing import Any

from lightning.pytorch import Trainer
from torch.utils.data import DataLoader

from datamodules.dataset import CXRDataset
from datamodules.manifest import Batch
from datamodules.samplers import EvalSampler, TrainSampler


class BatchLoader:
    """Whole batches of a dataset in the order of a sampler that yields whole batches.

    It holds a DataLoader but is none: Lightning rebuilds those for `predict` and under DDP, and the rows of each rank
    are settled here. For training, `state_dict` counts the batches that were trained on, not those that workers
    have fetched ahead. The order of an epoch is asked of the sampler with its first batch: after Lightning has set the
    epoch.

    Args:
        dataset: takes a list of rows, gives a batch.
        sampler: yields lists of rows; Lightning calls its `set_epoch`.
        num_workers: processes that fetch batches; 0 for none.
        pin_memory: for copies to a GPU.
        processed: how many batches of the epoch are done with; by default those that were handed out.
    """

    def __init__(
        self,
        dataset: CXRDataset,
        sampler: TrainSampler | EvalSampler,
        *,
        num_workers: int,
        pin_memory: bool,
        processed: Callable[[], int] | None = None,
    ) -> None:
        self.dataset, self.sampler = dataset, sampler
        self.batch_sampler = None  # Lightning asks for it wherever there is a sampler
        self.loader = DataLoader(
            dataset,
            batch_size=None,  # the sampler's items are batches already
            sampler=sampler,
            collate_fn=_as_it_is,
            num_workers=num_workers,
            persistent_workers=num_workers > 0,
            pin_memory=pin_memory,
        )
        self.step = 0
        self.processed = processed or (lambda: self.step)

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[Batch]:
        train = self.sampler if isinstance(self.sampler, TrainSampler) else None
        self.step = 0 if train is None else train.first_step()
        draws = None if train is None or train.weights is None else train.draws()
        for batch in self.loader:
            if draws is not None:
                batch["draw"] = next(draws)
            self.step += 1
            yield batch

    def state_dict(self) -> dict[str, Any]:
        """Where the current epoch is; {} of an evaluation."""
        return self.sampler.state(step=self.processed()) if isinstance(self.sampler, TrainSampler) else {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`.

        Raises:
            ValueError: when that is not possible, see `TrainSampler.resume`.
        """
        if isinstance(self.sampler, TrainSampler) and state:
            self.sampler.resume(state)


def _as_it_is(batch: Any) -> Any:
    # It is made of tensors already; the default would look at each text.
    return batch


def batches_done(trainer: Trainer) -> Callable[[], int]:
    """How many batches of the epoch a trainer has finished.

    The batch that it is at has been handed out and is not finished: a checkpoint that Slurm's signal asks for in the
    middle of a step must not skip it.
    """
    return lambda: trainer.fit_loop.epoch_loop.batch_progress.current.processed  # type: ignore[attr-defined]
