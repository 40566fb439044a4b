"""What a run leaves behind: log, figure, trend, results; and where it ran."""
