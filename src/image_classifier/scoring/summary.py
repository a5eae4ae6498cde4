"""What came of scoring a source, told from the files that were written."""

from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

from image_classifier.datasets import counted, listed
from image_classifier.scoring.score_files import ScoreFiles

_EXAMPLES = 5


@dataclass(frozen=True)
class Summary:
    """Counts over all rows."""

    images: int
    unread: int
    """Images that have an error in place of a label."""
    examples: dict[str, str]
    """Some of these, and why each could not be read."""
    labels: dict[str, int]
    """How many images got each label, the commonest first."""
    given_labels: int
    """Images that were read and came with a label."""
    agreeing: int
    """Those of them that got the same label from the model."""

    @property
    def in_words(self) -> str:
        text = f"scored {counted(self.images, 'image')}"
        if self.unread:
            told = listed([f"{source} ({reason})" for source, reason in self.examples.items()])
            more = (
                f" and {self.unread - len(self.examples):,} more" if self.unread > len(self.examples) else ""
            )
            text += f", but {self.unread:,} cannot be read: {told}{more}"
        if self.given_labels:
            share = self.agreeing / self.given_labels
            text += f"; {share:.2%} of {counted(self.given_labels, 'given label')} agree"
        return text

    def to_dict(self) -> dict[str, object]:
        return asdict(self)


def summarise(results: ScoreFiles, parts: int) -> Summary:
    """Read from all parts what is counted. Raises DataError where one is damaged."""
    import pyarrow.compute as pc

    images = unread = given = agreeing = 0
    examples: dict[str, str] = {}
    labels: Counter[str] = Counter()
    for batch in results.columns(("source", "given_label", "label", "error"), parts):
        images += batch.num_rows
        failed = batch.num_rows - batch["error"].null_count
        if failed and len(examples) < _EXAMPLES:
            rows = batch.filter(pc.is_valid(batch["error"])).slice(0, _EXAMPLES - len(examples))
            examples |= dict(zip(rows["source"].to_pylist(), rows["error"].to_pylist(), strict=True))
        unread += failed
        counts: list[Any] = pc.value_counts(batch["label"].drop_null()).to_pylist()
        labels.update({item["values"]: item["counts"] for item in counts})
        # Null where either is.
        same = pc.equal(batch["label"], batch["given_label"])
        given += len(same) - same.null_count
        agreeing += pc.sum(same).as_py() or 0
    return Summary(images, unread, examples, dict(labels.most_common()), given, agreeing)
