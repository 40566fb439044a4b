"""What may become of long work beside its end."""

from __future__ import annotations

from ..errors import NLAError


class SetAsideError(NLAError):
    """Rows ended the process that worked on them, twice each; they are set aside, and the others are done."""

    remedy = "OUT.failed.jsonl names them: mend them, or run them by themselves with more memory."


class ClusterError(NLAError):
    """A Ray cluster cannot be reached, has no room for an actor, or its nodes do not hold the same pair or base."""

    remedy = "See nla doctor, and --dry-run for what fits; what was done is kept."
