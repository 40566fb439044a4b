"""One half of a pair on disk or on the Hub: found, fetched, described; and the base of the bundled pair."""
