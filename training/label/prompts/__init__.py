"""The prompts: versioned jinja2 templates, and what renders them."""
