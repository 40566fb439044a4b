"""Four words of a text in English: the published Gemma-4-E2B pair on a 4 GB card.

    pip install "nla-sdk[nf4]"
    python examples/gemma4_e2b_pair.py "The Eiffel Tower stands in the city of"

downloads  google/gemma-4-E2B, 10.2 GB, once, and two LoRAs on it:
           Solshine/gemma-4-e2b-nla-L23-av-v0_0_1, Solshine/gemma-4-e2b-nla-L23-ar-v0_0_1
needs      about 3.5 GB of card memory in 4 bits and 8 GB of RAM; --device cpu: 11 GB of RAM, and patience
           the terms of google/gemma-4-E2B accepted on its page, and a token: HF_TOKEN, or `hf auth login`

The figures are estimates. The tests run this script on tiny stand-ins; on the real weights nobody here has run it yet.
"""

import argparse
import sys

from nla_sdk import NLAError, NLAPair

AV = "Solshine/gemma-4-e2b-nla-L23-av-v0_0_1"
AR = "Solshine/gemma-4-e2b-nla-L23-ar-v0_0_1"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", nargs="?", default="The Eiffel Tower stands in the city of")
    parser.add_argument("--device", default="auto", help="auto (default), cuda, cpu, …")
    args = parser.parse_args()

    # Both LoRAs, and the source model that is read, share one base in memory: that is what makes 4 GB enough.
    pair = NLAPair.from_pretrained(AV, AR, quantization="nf4", device=args.device)

    acts = pair.extract(args.text, positions=[-4, -3, -2, -1])
    for token, trip in zip(acts.tokens, pair.round_trip(acts), strict=True):
        print(f"{token!r}: {trip.explanation}" + ("" if trip.status == "ok" else f"  [{trip.status}]"))
        # Read the first cosine beside the second: what the AR makes of no words at all.
        print(f"    cosine {trip.cosine:.3f}, without words {trip.empty_cosine:.3f}")


if __name__ == "__main__":
    try:
        main()
    except NLAError as error:
        sys.exit(f"error: {error}")
