"""Where ranges come from: observers, histograms, training."""
