"""What is rewarded beside the AR's reconstruction: how likely an explanation's claims are to hold."""
