"""This run's own rows: a split's activations, zipped with every label set that covers it.

`<out>/split/<split>.parquet` and `<out>/labels/<set>/<split>.parquet` have the same rows in the same order; both are
read a thousand rows at a time and held together by `row_id`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa

from nla_sdk.errors import InputError
from nla_sdk.io.tables import open_parquet, parquet_of, read_vectors, rechunk

from ...configs.config import Config
from .choosing import Head
from .columns import ABOUT_LABEL, ABOUT_ROW, USABLE, Block

ROWS_PER_BLOCK = 1024
LABELLED = ("av_sft", "ar_sft", "validation", "eval")


def in_steps(path: Path, columns: Sequence[str], size: int = ROWS_PER_BLOCK) -> Iterator[pa.Table]:
    """A parquet file, `size` rows at a time however its row groups lie (the last step may be shorter).

    Raises:
        InputError: it is not a parquet file, or lacks a column.
    """
    file = open_parquet(path)
    if missing := [name for name in columns if name not in file.schema_arrow.names]:
        raise InputError(
            f"{path} lacks the column{'s' * (len(missing) > 1)} {', '.join(missing)}; it has "
            f"{', '.join(file.schema_arrow.names)}."
        )
    batches = file.iter_batches(batch_size=size, columns=list(columns))
    with parquet_of(path):  # a column of a type that Arrow cannot read
        yield from rechunk((pa.Table.from_batches([batch]) for batch in batches), size)


class LabelledSplit:
    """One split of this run with its labels.

    Args:
        config: whose `out` holds the split and the labels.
        split: av_sft, ar_sft, rl, validation or eval; rl has no labels.
    Raises:
        InputError: a file is not there.
    """

    def __init__(self, config: Config, split: str) -> None:
        self.path = config.out / "split" / f"{split}.parquet"
        self.labels = {
            one.name: config.out / "labels" / one.name / f"{split}.parquet"
            for one in config.label.sets
            if split in LABELLED and split in one.splits
        }
        if not self.path.is_file():
            raise InputError(f"{self.path} does not exist: run `python -m training.data.split` first.")
        for path in self.labels.values():
            if not path.is_file():
                raise InputError(f"{path} does not exist: run `python -m training.label` first.")
        self.rows = open_parquet(self.path).metadata.num_rows

    def files(self) -> dict[str, Path]:
        """Its files, by the names a sidecar's `inputs` gives them."""
        found = {f"split/{self.path.name}": self.path}
        return found | {f"labels/{name}/{path.name}": path for name, path in self.labels.items()}

    def blocks(self) -> Iterator[Block]:
        """The activations in order, with the labels of every set in the config's order.

        Raises:
            InputError: a label table has other rows than the split.
        """
        tables = in_steps(self.path, [*ABOUT_ROW, "activation_vector"])
        for table, labels in zip(tables, self._labels(["api_explanation", *ABOUT_LABEL]), strict=True):
            vectors = read_vectors(table)
            yield Block(table.drop_columns(["activation_vector"]).to_pylist(), vectors, labels)

    def heads(self) -> Iterator[Head]:
        """Of every activation what is known without reading its vector."""
        tables = in_steps(self.path, ["row_id", "doc_id", "detokenized_text_truncated", "source_family"])
        for table, labels in zip(tables, self._labels(["api_explanation", "label_status"]), strict=True):
            for row, of_row in zip(table.to_pylist(), labels, strict=True):
                usable = any(one["label_status"] in USABLE and one["api_explanation"] for one in of_row)
                yield Head(*row.values(), usable)

    def _labels(self, columns: Sequence[str]) -> Iterator[list[list[dict]]]:
        """For every step of the split: the labels of each of its rows, their row_ids checked."""
        steps = {name: in_steps(path, ["row_id", *columns]) for name, path in self.labels.items()}
        for own in in_steps(self.path, ["row_id"]):
            found: list[list[dict]] = [[] for _ in range(own.num_rows)]
            for name, step in steps.items():
                labels = next(step, None)
                if labels is None or not labels["row_id"].equals(own["row_id"]):
                    raise self._other_rows(name)
                for at, label in enumerate(labels.drop_columns(["row_id"]).to_pylist()):
                    found[at].append(label)
            yield found
        for name, step in steps.items():
            if next(step, None) is not None:
                raise self._other_rows(name)

    def _other_rows(self, name: str) -> InputError:
        return InputError(
            f"{self.labels[name]} does not hold the rows of {self.path}, one by one in its order (row_id differs): the "
            "labels are of another split. Run `python -m training.label` again."
        )
