"""What recordings are like, what in them could mislead a detector, and which detector to use."""
