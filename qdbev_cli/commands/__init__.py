"""One file per command: parse, load the profile, call ``pipelines.<verb>.run``, hand the outcome to the console."""
