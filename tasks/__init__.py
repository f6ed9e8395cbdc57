"""The rooms that the data flows through, in the order of the mission."""
