"""Labels read out of activations: probes, how sure they are, and the stage that writes the labels."""
