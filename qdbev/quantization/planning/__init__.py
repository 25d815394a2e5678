"""Which layers get which bits, and what that costs."""
