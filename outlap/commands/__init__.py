"""One command per module. Each imports what it needs when it runs, so that `outlap --help` is fast."""
