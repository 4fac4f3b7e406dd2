"""One video over several processes: the guidance pair is split first, then the tokens."""
