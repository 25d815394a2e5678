"""In which order: one module per command, one public function ``run``; here a profile meets the library."""
