"""Publish checkpoints and tables with their cards. `python -m training.publish --help`"""
