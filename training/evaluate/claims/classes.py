"""The pair beside the mean direction of each class of tokens, which knows nothing but the class."""

from __future__ import annotations

from typing import get_args

import numpy as np

from nla_sdk.evaluation.claims import TokenClass, TokenClassName
from nla_sdk.metrics import unit

from ..measures.tables import Tables, mean_figure, numbers, sign_flip_p

FEWEST = 5  # rows of a class
COLUMN = "token_class"


def token_classes(tables: Tables) -> list[TokenClass] | None:
    """FVE of each class's rows beside that of its mean direction; None: classes are not known, or there is no FVE.

    The mean is of the unit activations of the class's rows of other documents (one document left out), so that it has
    not seen what it is held against.
    """
    if COLUMN not in tables.rows.column_names or not tables.has_fve or not tables.evaluated.any():
        return None
    names = np.array([name or "" for name in tables.rows[COLUMN].to_pylist()], dtype=object)
    cosine = numbers(tables.rows, "cosine_real")
    found = []
    for name in get_args(TokenClassName):
        mask = tables.evaluated & (names == name)
        documents = tables.of(mask)
        if mask.sum() < FEWEST or len(documents) < 2:
            continue
        targets = unit(tables.activations[mask])
        own = np.stack([targets[rows].sum(axis=0) for rows in documents.rows])[documents.codes]
        means = unit(targets.sum(axis=0) - own)
        fve, of_mean = tables.fve(cosine[mask]), tables.fve(np.einsum("nd,nd->n", targets, means))
        delta = fve - of_mean
        found.append(
            TokenClass(
                name=name,
                n=int(mask.sum()),
                documents=len(documents),
                fve=mean_figure(tables, documents, fve),
                mean_fve=mean_figure(tables, documents, of_mean),
                delta=mean_figure(tables, documents, delta, sign_flip_p(tables, documents, delta)),
            )
        )
    return found
