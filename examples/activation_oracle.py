"""Questions about what a model holds in mind: an activation oracle on Qwen3-8B.

    pip install "nla-sdk[nf4]"
    python examples/activation_oracle.py "She walked to the bank of the river." "Which bank is meant?"

downloads  Qwen/Qwen3-8B, 16 GB, and a LoRA on it: adamkarvonen/checkpoints_latentqa_cls_past_lens_addition_Qwen3-8B
needs      about 8 GB of card memory in 4 bits; --quantization none: 18 GB
           no terms to accept, no token

The figures are estimates. The tests run this script on tiny stand-ins; on the real weights nobody here has run it yet.
"""

import argparse
import sys

from nla_sdk import NLAError, NLAPair

ORACLE = "adamkarvonen/checkpoints_latentqa_cls_past_lens_addition_Qwen3-8B"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", nargs="?", default="She walked to the bank of the river.")
    parser.add_argument("question", nargs="*", default=["Which bank is meant?", "Who is the text about?"])
    parser.add_argument("--quantization", choices=["nf4", "none"], default="nf4")
    parser.add_argument("--device", default="auto", help="auto (default), cuda, cpu, …")
    args = parser.parse_args()

    quantization = None if args.quantization == "none" else args.quantization
    oracle = NLAPair.from_pretrained(ORACLE, quantization=quantization, device=args.device)  # no AR: it needs none

    # The oracle never sees the text: it gets the residual stream at each of its tokens, all in one prompt.
    acts = oracle.extract(args.text, positions="all")
    print(f"{len(acts.tokens)} tokens of {args.text!r}, layer {acts.layer}")
    for answer in oracle.ask(acts, args.question):
        print(f"{answer.question}  {answer}")

    # The same question of another text's activations: an answer that stays the same is a guess from the question.
    other = oracle.extract("The recipe takes two eggs, flour and a little butter.", positions="all")
    for answer in oracle.ask(other, args.question):
        print(f"of a recipe: {answer.question}  {answer}")


if __name__ == "__main__":
    try:
        main()
    except NLAError as error:
        sys.exit(f"error: {error}")
