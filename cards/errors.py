"""What can go wrong with a card."""

from nla_sdk.errors import NLAError


class CardError(NLAError):
    """A card cannot be rendered from what was given."""

    remedy = "Correct the contract, the evaluation or the card's own text where the message says."
