"""What we promise: keys, the TUF repository, and signed assignments."""
