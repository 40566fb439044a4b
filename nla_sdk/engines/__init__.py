"""An AV's texts from a running vLLM or SGLang server that holds the exported AV: embeddings there, tokens back."""
