"""The runs of a comparison, as rows of a study; none of them reads a test row."""

import math
import shutil
from functools import cached_property
from pathlib import Path

from infoprompt.config import FewShotSettings, RunConfig
from launcher.studies.jobs import Cell, Job
from launcher.studies.plan import Setting, Study


class SavingJob(Job):
    """A run that keeps what it trained, to be scored on test rows if its method is taken."""

    @cached_property
    def config(self) -> RunConfig:
        """The checked config."""
        config = super().config
        return config.model_copy(update={"run": config.run.model_copy(update={"save_artifact": True})})

    @property
    def artifact(self) -> Path:
        """The folder of what it trained."""
        return self.folder / "artifact"


class HeldOutCell(Cell):
    """A method that is tried on held-out rows.

    Its settings are tried with the first seeds, and the chosen one is trained with the others too.
    """

    job_kind: type[Job] = SavingJob

    def __init__(self, study: Study, task: str, size: FewShotSettings, method: str, search_seeds: int) -> None:
        super().__init__(study, task, size, method)
        self._seeds = study.config.seeds[:search_seeds]

    @cached_property
    def search_jobs(self) -> list[Job]:
        """Every setting with the first seeds, of a single setting too."""
        return [self.job_kind(self, "search", setting, seed) for setting in self.settings for seed in self._seeds]

    @property
    def final_jobs(self) -> list[Job]:
        """The chosen setting with the seeds that the search has not had, then all of them."""
        setting = self.chosen
        known = {(str(job.setting), job.seed): job for job in self.search_jobs}
        for seed in self.study.config.seeds if setting is not None else []:
            key = (str(setting), seed)
            if key not in known:
                known[key] = self._further.setdefault(key, self.job_kind(self, "search", setting or {}, seed))
        return [job for (name, _), job in known.items() if name == str(setting)]

    @cached_property
    def _further(self) -> dict[tuple[str, int], Job]:
        return {}

    @property
    def jobs(self) -> list[Job]:
        """Each of its runs once."""
        return list(dict.fromkeys([*self.search_jobs, *self.final_jobs]))

    def saved(self) -> dict[int, Path]:
        """Seed to the folder of what the chosen setting's run has trained."""
        kept = {job.seed: job.artifact for job in self.final_jobs if isinstance(job, SavingJob)}
        return {seed: folder for seed, folder in kept.items() if folder.is_dir()}

    def drop_saved(self, most_bytes: float = math.inf) -> None:
        """Remove what runs of settings that were not chosen have trained, and of the chosen one what is larger."""
        kept = set(self.final_jobs)
        for job in self.jobs:
            if isinstance(job, SavingJob) and (job not in kept or _bytes(job.artifact) > most_bytes):
                shutil.rmtree(job.artifact, ignore_errors=True)

    def scores(self) -> dict[int, float]:
        """Seed to the score on held-out rows, of the chosen setting's runs that finished."""
        results = {job.seed: job.result() for job in self.final_jobs}
        return {seed: result["dev"][result["metric"]] for seed, result in results.items() if result}


class GivenCell(HeldOutCell):
    """A method with one setting that was chosen before, at another size."""

    job_kind = Job

    def __init__(self, study: Study, task: str, size: FewShotSettings, method: str, setting: Setting) -> None:
        super().__init__(study, task, size, method, len(study.config.seeds))
        self._setting = setting

    @property
    def settings(self) -> tuple[Setting, ...]:
        """The one."""
        return (self._setting,)


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
