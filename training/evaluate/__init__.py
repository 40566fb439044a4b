"""Evaluation that can say no: what a pair's explanations really carry. `python -m training.evaluate --help`"""
