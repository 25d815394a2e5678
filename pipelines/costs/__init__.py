"""What a detector costs by its numbers alone: operations, memory, time, and what is ahead."""
