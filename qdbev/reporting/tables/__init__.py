"""Tables: counts, results, costs, how numbers are rounded, the paper's rows."""
