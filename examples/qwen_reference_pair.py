"""A chat's last token in English, eight times: a reference pair on Qwen2.5-7B-Instruct.

    pip install "nla-sdk[nf4]"
    python examples/qwen_reference_pair.py "Is it safe to mix bleach and vinegar?"

downloads  kitft/nla-qwen2.5-7b-L20-av (15 GB), kitft/nla-qwen2.5-7b-L20-ar (11 GB), Qwen/Qwen2.5-7B-Instruct (15 GB)
needs      about 16 GB of card memory in 4 bits; --quantization none: 44 GB. Whole checkpoints have a model each
           no terms to accept, no token

The figures are estimates. The tests run this script on tiny stand-ins; on the real weights nobody here has run it yet.
"""

import argparse
import sys

from nla_sdk import NLAError, NLAPair

AV = "kitft/nla-qwen2.5-7b-L20-av"
AR = "kitft/nla-qwen2.5-7b-L20-ar"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("question", nargs="?", default="Is it safe to mix bleach and vinegar?")
    parser.add_argument("--quantization", choices=["nf4", "none"], default="nf4")
    parser.add_argument("--device", default="auto", help="auto (default), cuda, cpu, …")
    args = parser.parse_args()

    quantization = None if args.quantization == "none" else args.quantization
    pair = NLAPair.from_pretrained(AV, AR, quantization=quantization, device=args.device)

    # What the model holds in mind as it is about to answer: the last token of the chat template.
    acts = pair.extract([{"role": "user", "content": args.question}])

    # This AV was made to be sampled. What several explanations have in common is worth more than what one says.
    explanations = pair.explain(acts, n=8, temperature=1.0, seed=0)[0]
    scores = pair.score(explanations, acts.vectors.expand(len(explanations), -1))
    for score, explanation in sorted(zip(scores, explanations, strict=True), key=lambda pair: -pair[0].cosine):
        gain = "  none" if score.gain is None else f"{score.gain:6.3f}"
        print(f"cosine {score.cosine:.3f}, gain {gain}  {explanation}")
    print("gain: the share of the error of no words at all that the words remove; below 0 they do worse than none")


if __name__ == "__main__":
    try:
        main()
    except NLAError as error:
        sys.exit(f"error: {error}")
