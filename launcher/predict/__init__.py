"""`infoprompt predict`: what it reads, which artifact reads it, and how answers are shown."""
