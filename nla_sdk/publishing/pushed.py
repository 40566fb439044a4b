"""What comes back of a push: where it went."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing_extensions import Self


class Pushed(str):
    """The address of a repository that was pushed to; of a pull request, if one was opened.

    Attributes:
        repo: owner/name, as it is called now.
        commit: that holds what was pushed, whole.
        changed: whether it was made by this call; False: all was there already.
        loads: the line that loads it.

    Example:
        >>> at = Pushed("https://huggingface.co/ada/cat-av", "ada/cat-av", "3f2a", True, "…")
        >>> at, at.repo
        ('https://huggingface.co/ada/cat-av', 'ada/cat-av')
    """

    repo: str
    commit: str
    changed: bool
    loads: str

    def __new__(cls, url: str, repo: str, commit: str, changed: bool, loads: str) -> Self:
        made = super().__new__(cls, url)
        made.repo, made.commit, made.changed, made.loads = repo, commit, changed, loads
        return made

    def __reduce__(self) -> tuple[type[Pushed], tuple[str, str, str, bool, str]]:  # copies and pickles
        return Pushed, (str(self), self.repo, self.commit, self.changed, self.loads)
