"""THE DOOR: words of the shell into a profile, results into text; imports no torch until a command runs."""
