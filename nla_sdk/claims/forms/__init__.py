"""The forms of explanations that are cut part by part: sections, and the sentences that labels were made of before."""
