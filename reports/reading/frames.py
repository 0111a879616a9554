"""Runs as pandas tables, for whoever wants to go on by themselves."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from longva_eval.reports.reading.run import Run, TaskRun
from longva_eval.reports.reading.runs import read_run
from longva_eval.reports.reading.scores import score_facts, score_of

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["runs_frame", "samples_frame"]


def samples_frame(run: Run | str | Path) -> pd.DataFrame:
    """The samples of a run, a row for each.

    Args:
        run: From `read_run`, or its path.

    Returns:
        A table with these columns; `df[df.is_scored].groupby("task").score.mean()` is the score of
        every task:

        | column | meaning |
        |---|---|
        | `task` | name of the task |
        | `doc_id` | lmms-eval's number of the document |
        | `question_id` | the task's own id, or None |
        | `key` | what pairs the question with the same one in another run |
        | `video` | the video or picture it is asked on; the clusters of every standard error |
        | `question`, `options`, `target` | question, options and right answer |
        | `answer` | what the model said |
        | `choice` | the letter that was read, or None |
        | `outcome` | right, wrong, no answer, failed, not scored; scored for other metrics |
        | `is_scored` | False where the right answer is not public: in no mean |
        | `score` | from 0 to 1, or on the metric's own scale; of several tries the mean |
        | `metric` | what the score is |
        | `tries` | the score of every try, where there are several; else empty |
        | `frames_asked`, `frames_seen`, `timestamps` | of the video; None, () where not said |
        | `prompt_tokens`, `seconds` | length of the prompt; time of the answer |
        | `reason` | why a question failed |
        | `category.NAME` | the question's value of each category that the run has |
        | `metric.NAME` | its score in each further metric of the task |

    Raises:
        MediaError: If the path cannot be read.
    """
    import pandas as pd

    read = run if isinstance(run, Run) else read_run(run)
    rows = [row for task in read.tasks.values() for row in _rows(task)]
    frame = pd.DataFrame(rows, columns=None if rows else ["task", *_COLUMNS])
    return frame.astype({"frames_asked": "Int64", "frames_seen": "Int64", "prompt_tokens": "Int64"})


_COLUMNS = {
    "doc_id": "doc_id", "question_id": "question_id", "key": "key", "video": "cluster",
    "question": "question", "options": "options", "target": "answer", "answer": "generated",
    "choice": "choice", "outcome": "outcome", "is_scored": "is_scored", "score": "score",
    "metric": "", "tries": "tries", "frames_asked": "frames_asked", "frames_seen": "frames_seen",
    "timestamps": "timestamps", "prompt_tokens": "num_prompt_tokens", "seconds": "seconds",
    "reason": "reason",
}  # fmt: skip
"""Column -> what a sample calls it; `metric` is the task's."""


def _rows(task: TaskRun) -> Iterable[dict[str, Any]]:
    for sample in task.samples:
        yield {
            "task": task.name,
            **{
                column: getattr(sample, name) if name else task.metric
                for column, name in _COLUMNS.items()
            },
            **{f"category.{name}": value for name, value in sample.categories.items()},
            **{f"metric.{name}": value for name, value in sample.more_scores.items()},
        }


def runs_frame(runs: Iterable[Run | str | Path]) -> pd.DataFrame:
    """The scores of several runs, a row for each task and metric of each run.

    Args:
        runs: From `read_run`, or their paths.

    Returns:
        A table with the columns `run`, `path`, `model`, `frames`, `seeds`, `date`, `task`,
        `task_version`, `metric`, `higher_is_better`, `value` (percent where `unit` is `%`), `unit`,
        `standard_error`, `low_95`, `high_95` (clustered by video), `few` (what there is too little
        of for a narrow interval), `questions`, `videos`, `failed`, `tries`, `within`
        and `majority` (of several tries), and `problems`: what a reader of the number must know.

    Raises:
        MediaError: If a path cannot be read.
    """
    import pandas as pd

    rows = []
    for given in runs:
        run = given if isinstance(given, Run) else read_run(given)
        for task in run.tasks.values():
            main = task.main_metric()
            for metric in [main, *(metric for metric in task.metrics if metric is not main)]:
                found = score_of(task, metric=metric.label) if metric else score_of(task)
                if found is None:
                    continue
                rows.append(
                    {
                        "run": run.name,
                        "path": str(run.path),
                        "model": run.model,
                        "frames": run.frames(task.name),
                        "seeds": run.seeds,
                        "date": run.date,
                        "task": task.name,
                        "task_version": task.version,
                        **score_facts(found),
                        "problems": "; ".join(p.text for p in run.problems_of(task.name)),
                    }
                )
    return pd.DataFrame(rows)
