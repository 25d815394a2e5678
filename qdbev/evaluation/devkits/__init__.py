"""The devkits of data sets, which scores are held against: slow, and their own word on their own tables."""
