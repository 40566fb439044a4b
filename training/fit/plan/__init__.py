"""What a training run will need of memory, before it starts. `python -m training.fit.plan --config X.yaml`"""
