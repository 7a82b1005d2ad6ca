"""Batches from an endless stream of documents, and the place in it that a run goes on from."""

import os
from collections import deque
from collections.abc import Callable, Iterator
from itertools import chain, islice
from typing import Any, NamedTuple, TypeVar

import torch
from jaxtyping import Int
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from ddm.datamodules.documents import Documents, readable
from ddm.functional import gather_made, gather_objects, seeded

T = TypeVar("T")


class Place(NamedTuple):
    """A place in what a reader reads.

    Attributes:
        round: How often all documents have been read.
        shard: The number in the order of the round of the shard that is being read.
        document: The number of the document in its shard.
        token: The number of the token in its document.
        batch: The number of the batch among those that are shuffled together.
    """

    round: int = 0
    shard: int = 0
    document: int = 0
    token: int = 0
    batch: int = 0


class TokenStream:
    """Endless batches of windows of the tokens of documents.

    Readers, one in each process that loads batches, share the shards of every round, in a random
    order; where there are fewer shards than readers, they share the documents of every shard. The
    tokens of a reader's documents are cut into windows, `num_shuffled` batches of which are
    shuffled together: what has to be known to go on anywhere is where these batches begin.

    Args:
        documents: The documents.
        encode: Gives the tokens of a document.
        held_out: The numbers of first documents of the shards that are not read.
        length: The number of tokens L of a window.
        batch_size: The number of windows B of a batch.
        num_shuffled: The number of batches that are shuffled together.
        seed: The seed of all orders.
    """

    def __init__(
        self,
        documents: Documents,
        encode: Callable[[str], Int[Tensor, " L"]],
        held_out: list[int],
        *,
        length: int,
        batch_size: int,
        num_shuffled: int,
        seed: int,
    ) -> None:
        self.documents = documents
        self.encode = encode
        self.held_out = held_out
        self.length, self.batch_size, self.num_shuffled = length, batch_size, num_shuffled
        self.seed = seed

    def batches(
        self, place: Place, reader: int, num: int
    ) -> Iterator[tuple[Int[Tensor, "B L"], Place]]:
        """Yield the batches of one of several readers, from a place on, and the places after."""
        first, windows = place.batch, self.windows(place, reader, num)
        while True:
            block = list(islice(windows, self.num_shuffled * self.batch_size))
            start = block[0][1]._replace(batch=0)
            generator = seeded("cpu", self.seed, reader, *start)
            order = torch.randperm(len(block), generator=generator).split(self.batch_size)
            for batch in range(first, len(order)):
                tokens = torch.stack([block[i][0] for i in order[batch].tolist()])
                yield tokens, start._replace(batch=batch + 1)
            first = 0

    def windows(
        self, place: Place, reader: int, num: int
    ) -> Iterator[tuple[Int[Tensor, " L"], Place]]:
        """Yield windows, without end, and where each begins."""
        parts, held = deque[tuple[Tensor, Place]](), 0
        for tokens, where in self.tokens(place, reader, num):
            parts.append((tokens, where))
            held += len(tokens)
            while held >= self.length:
                begin, window, missing = parts[0][1], [], self.length
                while missing:
                    tokens, where = parts.popleft()
                    window.append(tokens[:missing])
                    if len(tokens) > missing:
                        after = where._replace(token=where.token + missing)
                        parts.appendleft((tokens[missing:], after))
                    missing -= len(window[-1])
                held -= self.length
                yield torch.cat(window), begin

    def tokens(self, place: Place, reader: int, num: int) -> Iterator[tuple[Tensor, Place]]:
        """Yield the tokens of the documents of a reader, round after round, and their places.

        Raises:
            ValueError: A round has not enough for a batch.
        """
        while True:
            found, num_shards = 0, self.documents.num_shards
            generator = seeded("cpu", self.seed, place.round)
            order = torch.randperm(num_shards, generator=generator).tolist()
            mine = order[reader::num] if num_shards >= num else order
            for index in range(place.shard, len(mine)):
                begin = place if index == place.shard else Place(place.round, index)
                first = max(begin.document, self.held_out[mine[index]])
                for document, text in readable(self.documents, mine[index], first):
                    if num_shards < num and document % num != reader:
                        continue
                    skipped = begin.token if document == begin.document else 0
                    tokens = self.encode(text)[skipped:]
                    found += len(tokens)
                    if len(tokens):
                        yield tokens, Place(place.round, index, document, skipped)
            if place[1:] == (0, 0, 0, 0) and found < self.length * self.batch_size:
                raise ValueError(
                    f"`documents` must give each of the {num} readers at least a batch of "
                    f"{self.batch_size} windows of {self.length} tokens, got {found} tokens for "
                    f"reader {reader}; give more text or shards, lower `batch_size` or "
                    "`num_workers`, or use `Text`, which splits windows."
                )
            place = Place(place.round + 1)


class StreamLoader:
    """Loads the batches of a stream, and knows where each reader has come to.

    Lightning keeps what `state_dict` returns in its checkpoints, and gives it back before the first
    batch of a resumed run.

    Args:
        stream: The batches.
        process: The number of this process, and how many train together.
        num_workers: The number of processes that load batches for each; 0 if it does so itself.
        num_batches: The number of batches of a run, which is an epoch; None for no end.
    """

    def __init__(
        self,
        stream: TokenStream,
        process: tuple[int, int] = (0, 1),
        *,
        num_workers: int = 0,
        num_batches: int | None = None,
    ) -> None:
        self.stream = stream
        self.process = process
        self.num_workers = num_workers
        self.num_batches = num_batches
        self._places, self._next = [Place()] * max(1, num_workers), 0

    def __len__(self) -> int:
        """Return the number of batches of a run: then no batch is fetched before its turn."""
        if self.num_batches is None:
            raise TypeError("the stream has no end")
        return self.num_batches

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        """Yield batches from where the last one was given."""
        # All of this runs when the first batch is asked for: the state has been loaded by then.
        loader = DataLoader(
            _Readers(self.stream, self.process, list(self._places), self._next),
            batch_size=None,
            num_workers=self.num_workers,
            collate_fn=_as_it_is,
            worker_init_fn=_alone,
        )
        batches = iter(loader)
        # A stream that is too short for one process is no stream for the others, which would wait.
        made = [next(batches)] if self.process[1] == 1 else _made_by_all(batches)
        for tokens, place, reader in chain(made, batches):
            self._places[reader] = place
            self._next = (reader + 1) % len(self._places)
            yield {"tokens": tokens}

    def state_dict(self) -> dict[str, Any]:
        """Return the places of the readers of all processes; a collective call."""
        places = gather_objects([list(place) for place in self._places])
        return {"places": places, "next": self._next}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on at those places; with other numbers of readers, begin a new round."""
        rank, world = self.process
        places = [[Place(*place) for place in mine] for mine in state_dict["places"]]
        if (len(places), len(places[0])) == (world, len(self._places)):
            self._places, self._next = places[rank], state_dict["next"]
            return
        rank_zero_warn(
            f"The run goes on with {world} process(es) of {len(self._places)} reader(s), and the "
            f"checkpoint had {len(places)} of {len(places[0])}: its batches are no longer those of "
            "the run without a stop. The documents are read anew, in another order."
        )
        latest = max(place.round for mine in places for place in mine)
        self._places, self._next = [Place(latest + 1)] * len(self._places), 0


class _Readers(IterableDataset[tuple[Tensor, Place, int]]):
    """The readers of one process, of which each worker is one."""

    def __init__(
        self, stream: TokenStream, process: tuple[int, int], places: list[Place], first: int
    ) -> None:
        super().__init__()
        self.stream, self.process, self.places, self.first = stream, process, places, first

    def __iter__(self) -> Iterator[tuple[Tensor, Place, int]]:
        worker = get_worker_info()
        number, num = (0, 1) if worker is None else (worker.id, worker.num_workers)
        # The worker that loads the first batch goes on as the reader whose turn it is.
        mine, (rank, world) = (number + self.first) % num, self.process
        batches = self.stream.batches(self.places[mine], rank + world * mine, world * num)
        return ((tokens, place, mine) for tokens, place in batches)


def _made_by_all(batches: Iterator[T]) -> list[T]:
    """Return the first batch, if the processes have all got one; a collective call."""
    made = list[T]()
    gather_made(lambda: made.append(next(batches)))
    return made


def _as_it_is(batch: object) -> object:
    # A named function can travel to the workers.
    return batch


def _alone(worker: int) -> None:
    # Tokenizers complain of being copied with their threads, unless told not to use any.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
