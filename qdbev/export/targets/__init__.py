"""What runtimes and chips execute of a quantized detector, by documented rules: data, each with its source."""
