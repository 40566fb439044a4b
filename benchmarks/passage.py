"""A passage that benchmarks read activations from."""

TEXT = (
    "The expedition left the harbour in late September with two ships, forty men and provisions for a year, and nobody "
    "on the quay that morning believed the captain when he said they would be home before the ice broke up in spring. "
)
