"""Every exception and warning of the SDK: one small tree.

Each message says what was found, what was expected and what to do. `NLAError` is the root, so
`except NLAError` catches all that this package raises on purpose; the command line turns each of them into one or
two lines and exit code 2.
"""


def first_line(error: BaseException) -> str:
    """What an error of a library says, in one line; its class where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


class NLAError(Exception):
    """Root of all errors raised on purpose by nla_sdk."""


# --- contract ---------------------------------------------------------------------------------------------------
class ContractError(NLAError, ValueError):
    """A contract (`nla_meta.yaml`) is missing, malformed, or lacks a value that cannot be derived."""


class ContractMismatchError(ContractError):
    """A contract does not agree with the live tokenizer or weights."""


# --- repositories and files -------------------------------------------------------------------------------------
class RepositoryError(NLAError):
    """A repository, folder or file that is needed could not be had."""


class MissingRepositoryError(RepositoryError):
    """No such repository or folder (or it is private and no token was given)."""


class MissingFileError(RepositoryError):
    """The repository or folder exists but lacks a file that is needed."""


class GatedRepositoryError(RepositoryError):
    """The repository exists, but its terms must be accepted, or a token given, first."""


class AccessTokenError(RepositoryError):
    """The access token is malformed, not accepted, or may not read the repository."""


class OfflineError(RepositoryError):
    """The files are not in the cache and the network cannot be used or reached."""


class DemoBaseError(RepositoryError):
    """The language model under the bundled pair is not installed, or its file is damaged."""


# --- weights ----------------------------------------------------------------------------------------------------
class LoadError(NLAError):
    """Weights could not be loaded as they are."""


class OutOfMemoryError(LoadError, MemoryError):
    """The device (or RAM) has no room for the model."""


class AdapterMismatchError(LoadError):
    """Some tensors of an adapter fit nowhere in the base model; nothing is loaded."""


class HeadError(LoadError):
    """The reconstructor's linear head is missing, of the wrong shape, or holds something else than tensors."""


class UnsafeFileError(LoadError):
    """A pickled file would run code when read; it is refused."""


class QuantizationError(LoadError):
    """The asked-for quantisation cannot be had here."""


# --- pairs ------------------------------------------------------------------------------------------------------
class PairError(NLAError):
    """The two halves of a pair cannot work together."""


class WrongRoleError(PairError, ValueError):
    """An AV was given where an AR is needed, or the other way round."""


class MissingHalfError(PairError):
    """The method needs a half (AV or AR) that this pair was loaded without."""


class MismatchedHalvesError(PairError, ValueError):
    """AV and AR come from different base models or layers, so a round trip has no meaning."""


class OccupiedFolderError(PairError, ValueError):
    """Something stands where a half would be saved, and it may not be replaced."""


# --- input ------------------------------------------------------------------------------------------------------
class InputError(NLAError, ValueError):
    """What a caller passed in cannot be used."""


class ActivationShapeError(InputError):
    """An activation has the wrong number of dimensions or the wrong d_model."""


class NonFiniteActivationError(InputError):
    """An activation holds NaN or infinity."""


class ZeroActivationError(InputError):
    """An activation is all zeros, so it has no direction."""


class EmptyBatchError(InputError):
    """An empty batch, text or list was passed."""


class PositionError(InputError, IndexError):
    """A token position lies outside the text."""


class LayerError(InputError, IndexError):
    """A layer lies outside the model."""


class MarkerError(InputError):
    """The injection marker was not found exactly once, between its two neighbours, in a prompt."""


# --- tables -----------------------------------------------------------------------------------------------------
class ChunkError(NLAError):
    """A chunk is missing or damaged, or a finished table would be overwritten."""


# --- warnings ---------------------------------------------------------------------------------------------------
class NLAWarning(UserWarning):
    """Root of all warnings of nla_sdk."""


class UnmatchedPairWarning(NLAWarning):
    """The AV and the AR do not name each other as partners."""


class TruncatedExplanationWarning(NLAWarning):
    """An explanation was cut to fit the reconstructor's `max_length`."""


class PrecisionWarning(NLAWarning):
    """Activations are read at another precision than the pair was trained on."""
