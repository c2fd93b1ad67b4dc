"""What came of a run of load: its figures, its pictures, its page, and what it was to keep."""
