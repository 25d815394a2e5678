"""One file per command: parse, load the profile, call ``pipelines.<verb>.run``, hand the result to the console."""
