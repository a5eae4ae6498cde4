from .batch_scoring import ScoreRequest as ScoreRequest, Summary as Summary, score_source as score_source
