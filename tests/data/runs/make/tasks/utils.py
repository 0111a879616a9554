from longva_eval.questions.outcomes import choice_record, mean_score as _mean
from longva_eval.tasks.videomme.videomme import TASK


def doc_to_visual(doc):
    return [f"WORK/hf/videomme/data/{doc['videoID']}.mp4"]


def doc_to_text(doc, lmms_eval_specific_kwargs=None):
    return TASK.doc_to_text(doc)


def process_results(doc, results):
    return {
        "longva_videomme_score": choice_record(
            results[0],
            options=doc["options"],
            answer=doc["answer"],
            question_id=doc["question_id"],
            cluster=doc["videoID"],
            question=doc["question"],
            categories={"duration": doc["duration"], "task_type": doc["task_type"]},
            media=[f"{doc['videoID']}.mp4"],
        )
    }


def mean_score(items):
    return _mean(items)
