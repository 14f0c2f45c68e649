"""The runs of a comparison, as rows of a study: those on held-out rows alone, and those of a setting that is given."""

from functools import cached_property

from infoprompt.config import FewShotSettings
from launcher.studies.jobs import Cell, Job
from launcher.studies.plan import Setting, Study


class HeldOutCell(Cell):
    """A method that is tried on held-out rows alone: no run of it reads a test row.

    Its settings are tried with the first seeds, and the chosen one is trained with the others too.
    """

    def __init__(self, study: Study, task: str, size: FewShotSettings, method: str, search_seeds: int) -> None:
        super().__init__(study, task, size, method)
        self._seeds = study.config.seeds[:search_seeds]

    @cached_property
    def search_jobs(self) -> list[Job]:
        """Every setting with the first seeds, of a single setting too."""
        return [Job(self, "search", setting, seed) for setting in self.settings for seed in self._seeds]

    @property
    def final_jobs(self) -> list[Job]:
        """The chosen setting with the seeds that the search has not had, then all of them."""
        setting = self.chosen
        known = {(str(job.setting), job.seed): job for job in self.search_jobs}
        for seed in self.study.config.seeds if setting is not None else []:
            key = (str(setting), seed)
            if key not in known:
                known[key] = self._further.setdefault(key, Job(self, "search", setting or {}, seed))
        return [job for (name, _), job in known.items() if name == str(setting)]

    @cached_property
    def _further(self) -> dict[tuple[str, int], Job]:
        return {}

    @property
    def jobs(self) -> list[Job]:
        """Each of its runs once."""
        return list(dict.fromkeys([*self.search_jobs, *self.final_jobs]))

    def scores(self) -> dict[int, float]:
        """Seed to the score on held-out rows, of the chosen setting's runs that finished."""
        results = {job.seed: job.result() for job in self.final_jobs}
        return {seed: result["dev"][result["metric"]] for seed, result in results.items() if result}


class GivenCell(HeldOutCell):
    """A method with one setting that was chosen before: on held-out rows at another size, or on the test rows."""

    def __init__(self, study: Study, task: str, size: FewShotSettings, method: str, setting: Setting) -> None:
        super().__init__(study, task, size, method, len(study.config.seeds))
        self._setting = setting

    @property
    def settings(self) -> tuple[Setting, ...]:
        """The one."""
        return (self._setting,)


class FinalCell(GivenCell):
    """The runs that read the test rows, a run for each seed."""

    @cached_property
    def search_jobs(self) -> list[Job]:
        """None: the setting is chosen."""
        return []

    @property
    def chosen(self) -> Setting:
        """The one."""
        return self._setting

    @property
    def final_jobs(self) -> list[Job]:
        """Always the same objects."""
        if "" not in self._final_jobs:
            self._final_jobs[""] = [Job(self, "final", self._setting, seed) for seed in self.study.config.seeds]
        return self._final_jobs[""]
