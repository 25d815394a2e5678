"""QONNX: integers of any width as nodes ``Quant`` around floats, for compilers of FPGAs; widths are kept exactly."""
