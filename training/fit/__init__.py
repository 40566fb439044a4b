"""Fitting a pair: supervised, on the AV's own words, and by policy optimisation."""
