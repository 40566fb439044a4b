"""The commands about vectors of other tools' files, and how INPUT names such vectors."""
