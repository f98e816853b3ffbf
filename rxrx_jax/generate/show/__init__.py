"""What is said and shown of objects that were generated: their numbers, and a page."""
