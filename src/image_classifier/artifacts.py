"""Where the records of a version lie among its run's artifacts."""

EVALUATION = "evaluation/evaluation.json"
HELD_OUT = "evaluation/held-out.json"
PICTURES = "evaluation/pictures.json"
LEARNING_CURVE = "learning-curve.png"
VERDICT = "gate/verdict.json"
REPORT = "report.html"
