"""Fusing the pairs that the flags name: each one read, doubted, fused, written and scored."""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from tqdm import tqdm

from data.bids import read_json
from data.quality import doubts_table, say_doubts
from data.volume import Volume, read_pair
from inference.fuse import Fusion, Job, score_rows, score_table
from inference.outputs import Outputs
from inference.page.fusion import fuse_balances, page_of
from inference.sidecar import DOUBTS, record_of
from inference.trained import TrainedModel
from training.devices.distributed import Process
from utils.errors import InputError, hearing, in_one_line, notice, report

FusePair = Callable[[TrainedModel, Volume, Volume], Fusion]


@dataclass(frozen=True)
class Fusing:
    """How pairs become results.

    Attributes:
        network: to fuse with.
        fuse_pair: fuses a pair by a network.
        wanted: what to write.
        settings: of the fusing, for the record.
        turns: whether a page may show other balances; a volume that was refined for an objective
            of its own has none.
    """

    network: TrainedModel
    fuse_pair: FusePair
    wanted: Outputs
    settings: Mapping[str, object]
    turns: bool = True

    def one(self, job: Job, completes: bool = False) -> list[str]:
        """Read, fuse, write and score one pair; returns the doubts about it.

        Args:
            completes: the result is half there, and the rest has to fit.

        Raises:
            InputError: a file that cannot be read or written, or a half that does not fit.
        """
        network = self.network
        with hearing() as heard:
            pair = read_pair(job.mri, job.pet)
            doubts = say_doubts(job.subject, *pair)
            fusion = self.fuse_pair(network, *pair)
        if completes:
            self.wanted.check_same(job, fusion)
        scores = score_rows(fusion)
        record = record_of(job, fusion, network, self.settings, doubts, heard)
        page = None
        if self.wanted.with_page:
            balanced = None
            if self.turns:
                balanced = fuse_balances(network, lambda to: self.fuse_pair(to, *pair), fusion)
            page = page_of(job.subject, fusion, pair, network, scores, balanced)
        files = self.wanted.write(job, fusion, pair[0], record, page)
        print(f"\n{job.subject}: wrote {', '.join(map(str, files[:-1]))} and {files[-1]}")
        print(f"of the network's output, {fusion.clipped:.1%} lay outside [0, 1] and was clipped")
        print(score_table(scores))
        return doubts

    def many(self, jobs: Sequence[Job], overwrite: bool, process: Process) -> int:
        """Fuse many pairs, of several processes each its share; returns the exit status.

        What is there is skipped, what is half there is completed, a bad pair is reported and the
        others go on. At the end there is a table of the doubts, of skipped pairs by their records.
        """
        skipped, failed, doubts = 0, [], {}
        hidden = None if process.is_main else True
        for job in tqdm(process.share_of(jobs), "fusing", unit="pair", disable=hidden):
            if self.wanted.are_there(job) and not overwrite:
                skipped += 1
                doubts[job.subject] = self._known_doubts(job)
                continue
            completes = self.wanted.are_begun(job) and not overwrite
            if completes:
                notice(f"{job.subject}: half of its result is there; completing it")
            try:
                self.wanted.check(job, overwrite or completes)
                doubts[job.subject] = self.one(job, completes)
            except BrokenPipeError:  # nobody reads: that is no pair's fault
                raise
            except Exception as error:
                report(in_one_line(error, job.subject))
                failed.append(job.subject)
        skipped = sum(process.gather([skipped]))
        failed = process.gather(failed)
        found = dict(process.gather(list(doubts.items())))
        doubts = {job.subject: found[job.subject] for job in jobs if job.subject in found}
        there = f"{skipped} skipped because they were there (--overwrite)"
        print(
            f"\n{len(jobs) - skipped - len(failed)} fused, {there}, {len(failed)} failed", *failed
        )
        print(doubts_table(doubts))
        return 2 if failed else 0

    def _known_doubts(self, job: Job) -> list[str]:
        """The doubts in the record of a result; none where there is no record."""
        with contextlib.suppress(InputError):
            known = read_json(self.wanted.files(job)["record"]).get(DOUBTS, [])
            return [str(doubt) for doubt in known] if isinstance(known, list) else []
        return []
