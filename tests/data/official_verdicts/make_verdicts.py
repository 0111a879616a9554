"""Makes the verdicts in this folder: official scripts, run on the answers we generate.

    LONGVA_EVAL_OFFICIAL=FOLDER python tests/data/official_verdicts/make_verdicts.py

FOLDER holds the files that `tests/support/official_scripts.py` names. What is kept are facts, a verdict for
each answer, and a digest of the answers; neither the scripts nor any benchmark's questions.
"""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from official_answers import COUNT, SEED, choice_answers, choice_questions, digest, open_questions
from official_scripts import VERDICTS, official_folder, official_verdicts

SOURCES = {
    "lvbench": "THUDM/LVBench:lvbench/utils/answer_util.py @ f998d95",
    "vlmevalkit_2026-05": "open-compass/VLMEvalKit:vlmeval/utils/matching_util.py @ c44bc601",
    "vlmevalkit_2026-06": "open-compass/VLMEvalKit:vlmeval/utils/matching_util.py @ a67ace50",
    "videomme": "thanku-all/parse_answer:eval_your_results.py @ afd52cfe3dde5b3685e0d4f760c10c756860c758",
    "mmmu": "MMMU-Benchmark/MMMU:mmmu/utils/eval_utils.py @ bb0b95a945998d91dfef37e969e07d49d1139438",
    "mmmu_open": "MMMU-Benchmark/MMMU:mmmu/utils/eval_utils.py @ bb0b95a945998d91dfef37e969e07d49d1139438",
    "mlvu_test": "JUNJIE99/MLVU:evaluation_test/test_bench.py @ fd060c10a43ea48a35100a22688a927b8e531199",
    "mlvu_dev": "JUNJIE99/MLVU:evaluation/multiple_choice_evaluation/choice_bench.py @ fd060c10a43ea48a35100a22688a927b8e531199",
}
folder = official_folder()
assert folder is not None, "set LONGVA_EVAL_OFFICIAL"
made_on = {
    "lvbench": choice_answers(),
    "vlmevalkit_2026-05": choice_questions(),
    "vlmevalkit_2026-06": choice_questions(),
    "videomme": choice_answers(),
    "mmmu": choice_questions(),
    "mmmu_open": open_questions(),
    "mlvu_test": choice_answers(),
    "mlvu_dev": choice_answers(),
}
for rule, verdicts in official_verdicts(folder).items():
    record = {
        "made_by": SOURCES[rule],
        "answers": f"tests/support/official_answers.py, seed {SEED}, {COUNT} of them",
        "answers_sha256": digest(made_on[rule]),
        "meaning": "a letter or a text; - where nothing is read or an option is drawn; 1 is right",
        "verdicts": verdicts if rule == "mlvu_test" else "".join(verdicts),
    }
    path = VERDICTS / f"{rule}.json"
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(path, len(verdicts), len(set(verdicts)))
