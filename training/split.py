"""Which split a document belongs to: by a hash of its id, so that no document ever crosses and re-runs agree."""

from __future__ import annotations

import hashlib


def share_of(doc_id: str, seed: int = 0) -> float:
    """A number in [0, 1) that depends on the document and the seed only."""
    if not doc_id:
        raise ValueError("A row without a doc_id cannot be split by document.")
    return int.from_bytes(hashlib.sha256(f"{seed}|{doc_id}".encode()).digest()[:8], "big") / 2**64


def split_of(doc_id: str, *, av_share: float, eval_share: float, seed: int = 0) -> str:
    """`"eval"`, `"av_sft"` or `"ar_sft"`.

    Example:
        >>> split_of("wiki_valid001", av_share=0.5, eval_share=0.1)
        'av_sft'
    """
    share = share_of(doc_id, seed)
    if share < eval_share:
        return "eval"
    return "av_sft" if share < eval_share + av_share else "ar_sft"
