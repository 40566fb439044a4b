"""One activation of a language model, put into English and back.

    python examples/round_trip_example.py "The cat sat on the"

runs the bundled pair, offline, on a CPU. A pair of the Hub:

    python examples/round_trip_example.py "The cat sat on the" --quantization nf4 \\
        --av Solshine/gemma-4-e2b-nla-L23-av-v0_0_1 --ar Solshine/gemma-4-e2b-nla-L23-ar-v0_0_1
"""

import argparse
import sys
import warnings

from nla_sdk import NLAError, NLAPair

TEXT = "The lighthouse keeper climbed the stairs one last time, lit the lamp and wrote in his log that the storm"


def main() -> None:
    parser = argparse.ArgumentParser(description="Round-trip the activation at a text's last token.")
    parser.add_argument("text", nargs="?", default=TEXT)
    parser.add_argument("--av", default="demo", help="activation → text: Hub id, folder or demo (default)")
    parser.add_argument("--ar", help="text → activation (default: the AV's partner)")
    parser.add_argument("--base", help="the base model, if not the one the pair names")
    parser.add_argument("--quantization", choices=["auto", "nf4", "none"], default="auto")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, …")
    args = parser.parse_args()

    quantization = None if args.quantization == "none" else args.quantization
    pair = NLAPair.from_pretrained(args.av, args.ar, base=args.base, quantization=quantization, device=args.device)

    # What the model holds in mind at the last token: its residual stream there, one vector.
    acts = pair.extract(args.text)
    vector = acts.vectors[-1]

    # Vector → explanation → vector. Nothing but the words passes from one half to the other. Beside its score stands
    # the honest comparison: what the second half makes of no words at all, and what the mean direction scores.
    trip = pair.round_trip(vector)

    print(f"text         {args.text}")
    print(f"read at      token {acts.tokens[-1]!r}, position {acts.positions[-1]}, layer {acts.layer}")
    print(f"explanation  {trip.explanation}" + ("" if trip.status == "ok" else f"  [{trip.status}]"))
    print(f"score        {beside('cosine', trip.cosine, trip.empty_cosine, trip.mean_cosine)}")
    if trip.fve is not None:
        print(f"             {beside('FVE', trip.fve, trip.empty_fve, trip.mean_fve)}")
    gain = "none possible" if trip.gain is None else f"{trip.gain:.3f}"
    print(f"             gain {gain}: the share of the empty explanation's error that the words removed")
    print(
        "             FVE is 0 for the mean direction over many rows, not for each: read one row's beside the others."
    )
    print("             Cosines do not compare across layers or models.")


def beside(name: str, words: float, empty: float, mean: float | None) -> str:
    """A score with what no words and, where it is known, the mean direction score on the same row."""
    return f"{name} {words:.3f} (empty explanation: {empty:.3f}" + (
        ")" if mean is None else f", mean direction: {mean:.3f})"
    )


if __name__ == "__main__":
    warnings.formatwarning = lambda message, *_, **__: f"warning: {message}\n"
    try:
        main()
    except NLAError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
