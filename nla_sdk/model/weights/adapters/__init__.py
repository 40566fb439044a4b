"""LoRA adapters: their config read field by field, every tensor accounted for, their parameters on a model."""
